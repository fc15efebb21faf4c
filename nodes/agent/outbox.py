"""Events on their way to the gateway: a bounded queue whose reader gets all that has gathered."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from nodes.agent import messages as m

EVENT_LIMIT = 1024
# A message costs both ends more than a small model does. So where events follow each other faster than this and more
# are to come, they travel in company: a message waits so long, or until it holds so many (what network cards call
# moderation).
BUSY_INTERVAL_S = 0.0016
GATHER_S = 0.004
GATHER_MOST = 16
SMOOTHING = 0.1
MESSAGE_BYTES = 2 * 1024 * 1024
SMALL_EVENT_BYTES = 128


class OutboxClosed(Exception):
    """The session is over; nothing is sent any more."""


class Outbox:
    """Many tasks put, one takes. Full means that those who put have to wait.

    Args:
        limit: Most events that wait.
        more: Whether work is under way that will bring further events; with none an event never waits for company.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        limit: int = EVENT_LIMIT,
        *,
        more: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._more = more
        self._clock = clock
        self._put_s = clock()
        self._interval_s = 1.0
        self._events: deque[m.Event] = deque()
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._closed = False

    async def put(self, event: m.Event) -> None:
        """Queue one event; waits while the outbox is full.

        Raises:
            OutboxClosed: if it was closed.
        """
        while not self._closed and len(self._events) >= self._limit:
            self._room.clear()
            await self._room.wait()
        if self._closed:
            raise OutboxClosed
        self._events.append(event)
        now_s = self._clock()
        self._interval_s += SMOOTHING * (now_s - self._put_s - self._interval_s)
        self._put_s = now_s
        # The next expert of a shared text waits for what this one wrote.
        urgent = isinstance(event, m.Written)
        if urgent or self._interval_s > BUSY_INTERVAL_S or len(self._events) >= GATHER_MOST or not self._more():
            self._ready.set()
        elif len(self._events) == 1:
            asyncio.get_running_loop().call_later(GATHER_S, self._ready.set)

    async def take(self) -> list[m.Event]:
        """All queued events that fit one message, in order; empty when the outbox is closed and drained."""
        while not self._events and not self._closed:
            self._ready.clear()
            await self._ready.wait()
        taken: list[m.Event] = []
        size_bytes = 0
        while self._events:
            size_bytes += weight_bytes(self._events[0])
            if taken and size_bytes > MESSAGE_BYTES:
                break
            taken.append(self._events.popleft())
        self._room.set()
        return taken

    def close(self) -> None:
        """Take no more events; what is queued can still be taken."""
        self._closed = True
        self._ready.set()
        self._room.set()


def weight_bytes(event: m.Event) -> int:
    """About how many bytes an event is on the wire."""
    match event:
        case m.WorkDone():
            arrays = (event.outputs or {}).values()
            return SMALL_EVENT_BYTES + 4 * len(event.text) + sum(array.nbytes for array in arrays)
        case m.Evidence():
            return SMALL_EVENT_BYTES + sum(array.nbytes for array in event.tensors.values())
        case _:
            return SMALL_EVENT_BYTES
