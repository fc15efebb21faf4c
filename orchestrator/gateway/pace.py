"""Lets nodes in one after the other, at a pace that leaves the event loop to requests.

A few nodes that come together are let in at once: small fleets and what takes over from a lost gateway are not held up.
Where many come, each pays with a pause for the work that the one before it made; nobody waits for longer than a node's
patience lasts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

# Requests go on between taking in the one and the next, also where there is no hurry to slow down.
TURN_S = 0.005
# So many come in at once ...
AT_ONCE = 8
# ... and beyond them one in so long: with its connection, its stream and its first words each takes the gateway about
# 2 ms of a processor, most of which cannot be told from what requests take.
PAUSE_S = 0.02
# Where taking a node into the fleet alone takes longer than this part of that pause, the pause grows with it.
FRACTION = 0.05
# A node waits 5 s for its welcome; the rest of that is for the way.
MOST_WAIT_S = 3.0


class Pace:
    """Queue at the door; first come, first served.

    Args:
        sleep: Waits.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sleep = sleep
        self._clock = clock
        self._door = asyncio.Lock()
        self._queue = asyncio.Lock()
        self.waiting = 0
        # When what was taken so far is its part of the time, and what the last node added to that.
        self._paid_s = 0.0
        self._pause_s = 0.0

    async def turn(self, urgent: Callable[[], bool] = lambda: False) -> None:
        """Returns when a node may come in; a waiting one that is cancelled leaves the queue.

        Args:
            urgent: Whether it may pass those that wait; asked when it is at the door.
        """
        came_s = self._clock()
        async with self._door:
            if urgent() or (not self.waiting and self._owed_s() <= 0.0):
                await self._sleep(TURN_S)
                return
        self.waiting += 1
        try:
            async with self._queue:
                # Those behind it came later and may wait as long as it may: all share what is left of that.
                left_s = max(0.0, came_s + MOST_WAIT_S - self._clock()) / self.waiting
                await self._sleep(max(TURN_S, min(self._owed_s(), left_s)))
        finally:
            self.waiting -= 1

    def took(self, seconds: float) -> None:
        """A node was let in, which took the event loop so long."""
        now_s = self._clock()
        self._pause_s = max(PAUSE_S, seconds / FRACTION)
        # Those that could not wait leave no debt to those who come after them.
        self._paid_s = min(max(self._paid_s, now_s) + self._pause_s, now_s + AT_ONCE * self._pause_s)

    def _owed_s(self) -> float:
        """How long the next one waits: what is not paid for, but for a few nodes' worth."""
        return self._paid_s - self._clock() - (AT_ONCE - 1) * self._pause_s
