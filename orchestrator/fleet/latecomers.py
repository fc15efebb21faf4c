"""Whom a gateway that was started again has yet to see: the nodes that the one before it had.

Until they are back it cannot know what they serve. What nobody has announced may be theirs, and whoever asks for it is
to try again rather than to give up. Nothing but names of nodes is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections.abc import Callable, Collection
from pathlib import Path

import structlog

from orchestrator.durable import save_json
from orchestrator.errors import EdgewiseError, Unavailable

log = structlog.get_logger("fleet")

# All are back within this, see `orchestrator.fleet.spread`.
RETURN_S = 15.0
RETRY_AFTER_S = 1.0
# How often who is connected is looked at, and how long the end of a gateway waits for a disk that hangs.
KEEP_S, CLOSE_S = 0.5, 1.0
# What is said of what no node has announced: a name, room for a prompt, an arm that a budget is enough for. What can be
# done at all is another matter: some of that is missing whoever comes.
NOT_ANNOUNCED = frozenset({"TASK_NOT_FOUND", "EXPERT_NOT_FOUND", "PROMPT_TOO_LONG", "BUDGET_INFEASIBLE"})


class Latecomers:
    """Nodes that were connected when the gateway ended and may be on their way back.

    Args:
        file: Where the names of those that are connected are kept; None keeps nothing, and then nobody is expected.
        clock: Monotonic seconds.
    """

    def __init__(self, file: Path | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._clock = clock
        self._until_s = -math.inf
        self._closed = self._failed = False
        self._writing = asyncio.Lock()
        self._kept = self._read()
        self._expected = set(self._kept)

    def _read(self) -> frozenset[str]:
        if self._file is None or not self._file.exists():
            return frozenset()
        try:
            return frozenset(map(str, list(json.loads(self._file.read_text()))))
        except (OSError, ValueError, TypeError) as error:
            log.error("fleet.nodes_unreadable", file=str(self._file), why=type(error).__name__)
            return frozenset()

    def expect(self) -> None:
        """The gateway listens: from now on they have `RETURN_S` seconds."""
        self._until_s = self._clock() + RETURN_S

    def came(self, node: str) -> None:
        """A node is there."""
        self._expected.discard(node)

    @property
    def expected(self) -> Collection[str]:
        """Who may yet come."""
        return self._expected if self._clock() < self._until_s else ()

    async def run(self, connected: Collection[str]) -> None:
        """Write down who is connected, as `connected` changes, until cancelled."""
        while True:
            await asyncio.sleep(KEEP_S)
            await self.keep(connected)

    async def close(self, connected: Collection[str]) -> None:
        """The gateway is ending: whoever is connected now is to come back, and whoever leaves from now on as well."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self.keep(connected)
        self._closed = True

    async def keep(self, connected: Collection[str]) -> None:
        """Write down who is connected or may yet come, if that has changed; what was not written is tried again."""
        async with self._writing:
            names = frozenset((*connected, *self.expected))
            if self._file is None or self._closed or names == self._kept:
                return
            try:
                await asyncio.to_thread(save_json, self._file, sorted(names))
            except OSError as error:
                if not self._failed:
                    log.error("fleet.nodes_not_kept", file=str(self._file), why=str(error))
                self._failed = True
            else:
                self._kept, self._failed = names, False

    def instead(self, error: EdgewiseError) -> EdgewiseError:
        """What to say in place of an error: to try again, where what is missing may be on a node yet to come."""
        if error.reason not in NOT_ANNOUNCED or not self.expected:
            return error
        return Unavailable(
            "NO_NODE",
            "No node that is here can do this; the gateway has just started and others are on their way: try again.",
            metadata=error.metadata,
            retry_after_s=RETRY_AFTER_S,
        )
