"""A bounded number of slots with a bounded queue in front, first come first served."""

from __future__ import annotations

import asyncio
from collections import deque

from nodes.errors import EngineBusy, EngineDied


class Slots:
    """Counts what runs and lines up what waits. One event loop owns it.

    Args:
        count: Slots in all.
        queue_limit: How many may wait; more are refused with EngineBusy.
    """

    def __init__(self, count: int, queue_limit: int) -> None:
        self._count = count
        self._queue_limit = queue_limit
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.taken = 0

    @property
    def queued(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def take(self) -> None:
        """Take a slot, waiting in line for it. Cancelling the caller leaves the line.

        Raises:
            EngineBusy: if the line is full.
            EngineDied: if `refuse_waiting` sent the line away.
        """
        if self.taken < self._count and not self._waiting:
            self.taken += 1
            return
        if len(self._waiting) >= self._queue_limit:
            raise EngineBusy(f"The queue holds its limit of {self._queue_limit}")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._leave(turn)
            raise

    def give_back(self) -> None:
        """Hand one slot to the next in line, or free it."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.taken -= 1

    def refuse_waiting(self, why: str) -> None:
        """Send everyone away who waits."""
        waiting, self._waiting = self._waiting, deque()
        for turn in waiting:
            if not turn.done():
                turn.set_exception(EngineDied(why))

    def _leave(self, turn: asyncio.Future[None]) -> None:
        if turn in self._waiting:
            self._waiting.remove(turn)
        elif turn.done() and not turn.cancelled() and turn.exception() is None:
            # The turn had come in the same moment; the slot must not be lost.
            self.give_back()
