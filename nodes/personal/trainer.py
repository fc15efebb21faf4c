"""When a delta is trained, and at whose expense: one at a time, while nothing else runs, within a day's joules."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import structlog

from nodes.personal.hand import Holding
from nodes.personal.pause import Pause

IDLE_S = 0.5
LOOK_S = 0.1
# A guest waits while the node serves; what hangs is ended all the same.
TIMEOUT_S = 7_200.0
# Where no profile tells joules: what a small core draws at full load.
CORE_W = 15.0
DAY_S = 86_400
# Forward, and twice as much back.
PASSES = 3.0
# What runs the training at the lowest priority.
GUEST = "nodes.personal.guest"
# Tells the training process that local experts are inputs of one graph.
SHARED = "shared"

log = structlog.get_logger("nodes.personal")


@dataclass(frozen=True)
class Subject:
    """What trains: a module, and what it is told behind the user's folder."""

    module: str
    arguments: tuple[str, ...]


class Trainer:
    """Trains one user at a time in a process of its own. One event loop.

    Args:
        subject: What trains.
        day_j: Joules that all trainings of a day may take.
        sample_j: Joules of one sample through the global expert; None where nobody knows.
        busy: Whether anything else runs on the node.
        now_unix_s: Tells the time.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        day_j: float,
        sample_j: float | None,
        busy: Callable[[], bool],
        now_unix_s: Callable[[], float],
    ) -> None:
        self._subject = subject
        self._day_j = day_j
        self._sample_j = sample_j
        self._busy = busy
        self._pause = Pause(busy)
        self._now_unix_s = now_unix_s
        # Whether what is learned must fit a row of the graph that all users share; known once that was measured.
        self.shared = False
        self._turn = asyncio.Lock()
        self._day = 0
        self._spent_j = 0.0
        # Without torch there is only the instant tier.
        self.able = find_spec("torch") is not None

    def heard(self) -> None:
        """The node has work: a training that runs stops until it has none."""
        self._pause.heard()

    def wants(self, hand: Holding) -> bool:
        """Whether a training of this user is to begin; says in `hand.state` why not."""
        if not self.able:
            hand.state = "instant tier only: torch is not installed"
        elif hand.state in ("waiting", "training"):
            return False
        elif not hand.due:
            hand.state = "idle"
        elif self._left_j() <= 0.0:
            hand.state = "the day's joules for training are spent"
        else:
            hand.state = "waiting"
            return True
        return False

    async def train(self, hand: Holding) -> None:
        """Wait for a quiet moment, then train; the process promotes what it has made, if it is better."""
        async with self._turn:
            quiet_s = 0.0
            while quiet_s < IDLE_S:
                await asyncio.sleep(LOOK_S)
                quiet_s = 0.0 if self._busy() else quiet_s + LOOK_S
            hand.state, count = "training", hand.count
            told = await self._run(hand.folder)
            energy_j = self._charge(told)
            hand.note_training(count, energy_j)
            hand.state = "idle" if told.get("promoted") else str(told.get("why", "training failed"))
            log.info("personal training", promoted=bool(told.get("promoted")), energy_j=energy_j)

    async def _run(self, folder: Path) -> dict[str, Any]:
        arguments = [str(folder), *self._subject.arguments, *([SHARED] if self.shared else [])]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            GUEST,
            self._subject.module,
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        pausing = asyncio.create_task(self._pause.accompany(process))
        try:
            async with asyncio.timeout(TIMEOUT_S):
                out, _ = await process.communicate()
            return dict(json.loads(out)) if process.returncode == 0 else {}
        except (TimeoutError, ValueError):
            return {}
        finally:
            pausing.cancel()
            if process.returncode is None:
                process.kill()
                await process.wait()

    def _charge(self, told: dict[str, Any]) -> float:
        """What a training took: its arithmetic at the profile's joules, else its CPU seconds at a core's watts."""
        if self._sample_j is None or "samples" not in told:
            energy_j = CORE_W * float(told.get("cpu_s", 1.0))
        else:
            energy_j = PASSES * self._sample_j * float(told["samples"])
        self._left_j()
        self._spent_j += energy_j
        return energy_j

    def _left_j(self) -> float:
        day = int(self._now_unix_s() // DAY_S)
        if day != self._day:
            self._day, self._spent_j = day, 0.0
        return self._day_j - self._spent_j
