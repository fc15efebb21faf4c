"""Requests that are under way together take each step together: all of them the first, then all of them the next.

A request runs a few hundred functions from its first byte to its last. If it runs all of them in one go it finds none
of them in the nearest caches of the processor, for the one before it has run everything else since; those that take a
step one right after the other find that step's code and data there. So a request steps aside where a step ends
(`Admission.aside`), which costs a turn of the loop, and only while others are under way. Choosing a route and sending
the work there are one step: whoever chooses next must see what was sent.
Source: `make bench NAME=http` with and without, deploy/docs/measuring.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# Turns of the loop in which requests wait for each other before they begin.
TURNS = 3


class Gathering:
    """Begins what comes: at once while nothing else is under way, else together with what comes in the same few turns
    of the loop, in the order in which it came."""

    def __init__(self) -> None:
        self._waiting: list[Callable[[], None]] = []

    def take(self, begin: Callable[[], None], *, alone: bool) -> None:
        """Begin this; `alone` says that nothing else is under way."""
        if alone and not self._waiting:
            begin()
            return
        self._waiting.append(begin)
        if len(self._waiting) == 1:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._turn, loop, TURNS - 1)

    def flush(self) -> None:
        """Begin what waits."""
        waiting, self._waiting = self._waiting, []
        for begin in waiting:
            begin()

    def _turn(self, loop: asyncio.AbstractEventLoop, left: int) -> None:
        if left:
            loop.call_soon(self._turn, loop, left - 1)
        else:
            self.flush()
