"""A gateway that tells what the turns of its event loop take: ``python -m tests.faults.watched_gateway gateway ...``.

A turn is all that runs between two looks at the sockets: so long every request waits. Its processor time says more on a
machine that others keep busy than its duration does. The loop is asyncio's own: uvloop's turns cannot be looked into.

SIGUSR1 has it write one line of JSON about the turns since the last one. With WIDE in the environment it looks for
garbage among 50,000 new objects at once, as gateways did before `orchestrator.gateway.garbage`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Coroutine
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import uvloop

from orchestrator.cli.main import main
from orchestrator.gateway import app

WIDE = "WIDE"
LONG_MS = 5.0


class Turns(selectors.DefaultSelector):
    """Looks at the sockets, and at the clock before and after."""

    def __init__(self) -> None:
        super().__init__()
        self._began_s: float | None = None
        self._looked_s = 0.0
        self._turns_ms: list[float] = []
        self._looks_ms: list[float] = []
        gc.callbacks.append(self._garbage)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See `selectors`."""
        if self._began_s is not None:
            self._turns_ms.append((time.thread_time() - self._began_s) * 1e3)
        found: list[tuple[selectors.SelectorKey, int]] = super().select(timeout)
        self._began_s = time.thread_time()
        return found

    def _garbage(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._looked_s = time.thread_time()
        else:
            self._looks_ms.append((time.thread_time() - self._looked_s) * 1e3)

    def tell(self) -> None:
        """Write what was seen since the last time."""
        turns_ms, looks_ms, self._turns_ms, self._looks_ms = self._turns_ms, self._looks_ms, [], []
        long_ms = [turn_ms for turn_ms in turns_ms if turn_ms > LONG_MS]
        told = {
            "event": "turns",
            "turns": len(turns_ms),
            "longest_ms": round(max(turns_ms, default=0.0), 2),
            "over_5_ms": len(long_ms),
            "garbage_longest_ms": round(max(looks_ms, default=0.0), 2),
            "busy_ms": round(sum(turns_ms), 1),
        }
        sys.stdout.write(f"{json.dumps(told)}\n")
        sys.stdout.flush()


def _watched() -> asyncio.AbstractEventLoop:
    turns = Turns()
    loop = asyncio.SelectorEventLoop(turns)
    loop.add_signal_handler(signal.SIGUSR1, turns.tell)
    return loop


def _run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=_watched) as runner:
        runner.run(work)


def _collect_widely() -> None:
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


if __name__ == "__main__":
    with ExitStack() as changed:
        changed.enter_context(patch.object(uvloop, "run", _run))
        if WIDE in os.environ:
            changed.enter_context(patch.object(app, "collect_in_slices", _collect_widely))
        main()
