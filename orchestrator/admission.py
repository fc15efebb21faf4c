"""Who may come in: a bounded number of requests run, a bounded number wait, the rest is told to come back.

Rejecting early is what keeps the goodput under overload: a request whose predicted wait exceeds what is left of its
deadline is refused at once instead of being answered too late.
"""

from __future__ import annotations

import asyncio
import types
from collections import deque
from collections.abc import Generator
from enum import Enum
from types import TracebackType
from typing import Protocol

from orchestrator.errors import Unavailable

# Weight of the newest request in the moving average of service times.
SMOOTHING = 0.05
MIN_RETRY_AFTER_S = 0.05


class Verdict(Enum):
    """What becomes of a request at the door."""

    ENTER = "enter"
    WAIT = "wait"
    REFUSE = "refuse"


class Crowd(Protocol):
    """Who is inside and who waits, and how long one stays as a rule."""

    @property
    def running(self) -> int: ...
    @property
    def queued(self) -> int: ...
    @property
    def max_running(self) -> int: ...
    @property
    def max_queued(self) -> int: ...
    @property
    def service_s(self) -> float: ...


def predicted_wait_s(crowd: Crowd) -> float:
    """Wait of a request that comes now."""
    if crowd.running < crowd.max_running:
        return 0.0
    return (crowd.queued + 1) * crowd.service_s / crowd.max_running


def admit(crowd: Crowd, deadline_s: float) -> Verdict:
    """Whether a request that comes now may enter, wait, or must come back later: pure, no clock."""
    if crowd.running < crowd.max_running:
        return Verdict.ENTER
    # Who waits must be answered in time, not only let in.
    if crowd.queued >= crowd.max_queued or predicted_wait_s(crowd) + crowd.service_s > deadline_s:
        return Verdict.REFUSE
    return Verdict.WAIT


def smoothed_s(mean_s: float, service_s: float) -> float:
    """The moving average of service times after one more."""
    return mean_s + SMOOTHING * (service_s - mean_s)


class Admission:
    """The gateway's door; used as ``async with admission.enter(deadline_s)``, or by `take`, `acquire` and `release`.

    Args:
        max_running: Requests that run at once.
        max_queued: Requests that may wait.
    """

    def __init__(self, *, max_running: int, max_queued: int) -> None:
        self.max_running = max_running
        self.max_queued = max_queued
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.running = 0
        self._empty = asyncio.Event()
        self.service_s = 0.005
        self.closed = False

    def resize(self, *, max_running: int, max_queued: int) -> None:
        """Have more or fewer places from now on; who is in, or waits already, stays."""
        self.max_running, self.max_queued = max_running, max_queued
        while self._waiting and self.running < self.max_running:
            self.running += 1
            self._pass_on()

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def wait_s(self) -> float:
        """Predicted wait of a request that comes now."""
        return predicted_wait_s(self)

    def enter(self, deadline_s: float) -> _Admitted:
        """A context that holds one place; waits for it at most `deadline_s`."""
        return _Admitted(self, deadline_s)

    def take(self) -> bool:
        """Take a place if one is free.

        Raises:
            Unavailable: DRAINING.
        """
        if self.closed:
            raise Unavailable("DRAINING", "The gateway is shutting down; call another one or try again later.")
        if self.running >= self.max_running:
            return False
        self.running += 1
        return True

    async def acquire(self, deadline_s: float) -> None:
        """Take a place, after a wait where none is free.

        Raises:
            Unavailable: DRAINING or OVERLOADED.
        """
        if self.take():
            return
        if admit(self, deadline_s) is Verdict.REFUSE:
            raise overloaded(self.wait_s())
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout(deadline_s):
                await place
        except TimeoutError:
            self._give_up(place)
            raise overloaded(self.wait_s()) from None
        except asyncio.CancelledError:
            self._give_up(place)
            raise

    def _give_up(self, place: asyncio.Future[None]) -> None:
        """Leave the queue; a place that was given in the same moment goes to the next."""
        if place in self._waiting:
            self._waiting.remove(place)
        elif not place.cancelled():
            self._pass_on()

    def release(self, service_s: float) -> None:
        """Give a place back after `service_s` seconds of use."""
        self.service_s = smoothed_s(self.service_s, service_s)
        self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting and self.running <= self.max_running:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.running -= 1
        if not self.running:
            self._empty.set()

    @types.coroutine
    def aside(self) -> Generator[None, None, None]:
        """End a step of a request that is in: the others that are take that step too before this one goes on
        (`orchestrator.abreast`)."""
        if self.running > 1:
            yield

    async def emptied(self) -> None:
        """Wait until nothing runs."""
        while self.running:
            self._empty.clear()
            await self._empty.wait()


def overloaded(wait_s: float) -> Unavailable:
    """The refusal that tells the caller when to come back."""
    retry_after_s = max(wait_s, MIN_RETRY_AFTER_S)
    return Unavailable(
        "OVERLOADED",
        "More requests come than can be answered in time; try again later.",
        retry_after_s=retry_after_s,
        metadata={"retryAfterS": f"{retry_after_s:.3f}"},
    )


class _Admitted:
    def __init__(self, admission: Admission, deadline_s: float) -> None:
        self._admission = admission
        self._deadline_s = deadline_s
        self._entered_s = 0.0

    async def __aenter__(self) -> None:
        await self._admission.acquire(self._deadline_s)
        self._entered_s = asyncio.get_running_loop().time()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission.release(asyncio.get_running_loop().time() - self._entered_s)
