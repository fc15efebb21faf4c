"""Many callers, one desk: steps that come together share one transaction and one disk sync.

`Store` is what the gateway uses. Over a desk that blocks, what has come is one transaction: on the caller's stack where
the disk is so fast that waking a thread would take longer, in a thread of the store's own where it is not, where the
desk is a server somewhere, or for what takes long. Over the desk in memory steps run at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from orchestrator.store.contract import Desk
from orchestrator.store.errors import StoreError, StoreFailed, StoreFull

T = TypeVar("T")

# A transaction that has so many steps takes no more: bounds how long a caller waits for the others.
MAX_BATCH = 512
# Where steps of the transaction before had come one by one, the next waits for more: this part of what that one took,
# at most so long. On a slow disk that halves the syncs; on a fast one nobody notices.
LINGER_FRACTION = 0.5
MAX_LINGER_S = 0.005
# While others run whose steps will come, transactions begin so far apart: each of them costs a sync, however many it
# serves. The first after a pause, who runs alone, and who is the last of a crowd to end, never waits.
APART_S = 0.016
# Transactions run in place as long as the quickest of so many is prompt, and they are not dreadful on average: that
# tells a slow disk from a busy processor, which makes some of them wait. A slow disk is tried again after a pause that
# doubles as long as it stays slow.
WINDOW = 8
PROMPT_S, DREADFUL_S = 0.003, 0.03
PAUSE_S, MOST_PAUSE_S = 10.0, 640.0

Step = Callable[[Desk], Any]
Told = Callable[[StoreError | None], None]
# A step, its result to be, and who else is told what became of it.
_Waiting = tuple[Step, asyncio.Future[Any], Told | None]


class Store(Protocol):
    """Runs steps; see the two below."""

    @property
    def durable(self) -> bool:
        """Whether what was run survives the process."""

    def run(
        self, step: Callable[[Desk], T], *, others: int = 0, aside: bool = False, told: Told | None = None
    ) -> asyncio.Future[T]:
        """The result of a step, once it is kept. Steps are run and answered in the order in which they came.

        Args:
            step: What to do.
            others: How many more will soon come of what runs already.
            aside: It takes long: milliseconds instead of microseconds.
            told: Called before the result is there, with the error where nothing is kept; also where the caller has
                left, and then nobody need look at the result.

        Raises (the future):
            StoreError: Nothing of the step is kept.
        """

    async def close(self) -> None:
        """Finish what was begun, then leave the desk."""


class InlineStore:
    """For a desk that never blocks.

    Args:
        desk: The desk; this store closes it.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    @property
    def durable(self) -> bool:
        """As the desk says."""
        return self._desk.durable

    def run(
        self,
        step: Callable[[Desk], T],
        *,
        others: int = 0,  # noqa: ARG002 (never waits)
        aside: bool = False,  # noqa: ARG002 (nothing takes long)
        told: Told | None = None,
    ) -> asyncio.Future[T]:
        """Run it now."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        try:
            (result,) = transact(self._desk, [step])
        except StoreError as error:
            result = error
        _answer(future, told, result)
        return future

    async def close(self) -> None:
        """Leave the desk."""
        self._desk.close()


class GroupCommitStore:
    """For a desk that blocks.

    After a failure that is not for want of space every further step fails: what the disk did not take once is not
    tried again as if nothing had happened.

    Args:
        desk: The desk; this store closes it.
        in_place: Whether short transactions may run on the caller's stack, as long as they are prompt; else, and for
            the others, a thread is used.
        pause: Waits so many seconds, in the store's thread.
    """

    def __init__(self, desk: Desk, *, in_place: bool = False, pause: Callable[[float], None] = time.sleep) -> None:
        self._desk = desk
        self._pause = pause
        self._queue: queue.SimpleQueue[list[_Waiting] | None] = queue.SimpleQueue()
        self._gathered: list[_Waiting] = []
        self._gathering: asyncio.TimerHandle | None = None
        self._aside = not in_place
        self._prompt = Promptness()
        self._handed_over_s = -math.inf
        # Steps that the thread has and that are not answered.
        self._with_thread = 0
        self._broken: StoreError | None = None
        self._closed = False
        self._linger_s = 0.0
        # How many times steps were handed over for the transaction that runs in the thread.
        self._came = 0
        self.commits = 0
        self.steps = 0
        self._thread = threading.Thread(target=self._work, name="store", daemon=True)
        self._thread.start()

    @property
    def durable(self) -> bool:
        """As the desk says."""
        return self._desk.durable

    def run(
        self, step: Callable[[Desk], T], *, others: int = 0, aside: bool = False, told: Told | None = None
    ) -> asyncio.Future[T]:
        """Run it in the next transaction. A caller that is cancelled does not take its step back."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if self._closed:
            _answer(future, told, StoreFailed())
            return future
        self._gathered.append((step, future, told))
        due_s = self._handed_over_s + APART_S
        if aside or not others or due_s <= loop.time():
            self._hand_over(aside=aside)
        elif self._gathering is None:
            self._gathering = loop.call_at(due_s, self._hand_over)
        return future

    def _hand_over(self, *, aside: bool = False) -> None:
        """Run what was gathered, or give it to the thread."""
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        batch, self._gathered = self._gathered, []
        if not batch:
            return
        now_s = self._handed_over_s = asyncio.get_running_loop().time()
        if aside or self._aside or self._with_thread or not self._prompt.at(now_s):
            self._with_thread += len(batch)
            self._queue.put(batch)
            return
        started_s = time.monotonic()
        answers = self._serve(batch)
        self._prompt.took(time.monotonic() - started_s, now_s)
        _answer_all(batch, answers)

    async def close(self) -> None:
        """Finish what was begun, then leave the desk."""
        if not self._closed:
            self._closed = True
            self._hand_over()
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)
            self._desk.close()

    def _serve(self, batch: Sequence[_Waiting]) -> Sequence[Any]:
        """One transaction of them all; their results, or the error for each."""
        error = self._broken
        if error is None:
            try:
                results = transact(self._desk, [step for step, _, _ in batch])
            except StoreError as told:
                error = told
                self._broken = None if isinstance(told, StoreFull) else told
            else:
                self.commits += 1
                self.steps += len(batch)
                return results
        return [error] * len(batch)

    # ---- in the thread

    def _work(self) -> None:
        going = True
        while going:
            batch, going = self._take()
            if not batch:
                continue
            started_s = time.monotonic()
            answers = self._serve(batch)
            took_s = time.monotonic() - started_s
            self._linger_s = min(LINGER_FRACTION * took_s, MAX_LINGER_S) if self._came > 1 else 0.0
            # The loop may be gone: then nobody waits any more.
            with contextlib.suppress(RuntimeError):
                batch[0][1].get_loop().call_soon_threadsafe(self._answered, batch, answers)

    def _take(self) -> tuple[list[_Waiting], bool]:
        """Whatever has come, at least one; False when that was the last."""
        batch: list[_Waiting] = []
        waiting = self._queue.get()
        if waiting is not None and self._linger_s:
            self._pause(self._linger_s)
        self._came = 0
        while waiting is not None:
            self._came += 1
            batch += waiting
            if len(batch) >= MAX_BATCH:
                return batch, True
            try:
                waiting = self._queue.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False

    def _answered(self, batch: Sequence[_Waiting], answers: Sequence[Any]) -> None:
        self._with_thread -= len(batch)
        _answer_all(batch, answers)


class Promptness:
    """Whether transactions are prompt enough to be run in place."""

    def __init__(self) -> None:
        self._last_s: deque[float] = deque(maxlen=WINDOW)
        self._pause_s = PAUSE_S
        self._until_s = -math.inf

    def at(self, now_s: float) -> bool:
        """Whether the next may run in place."""
        return now_s >= self._until_s

    def took(self, transaction_s: float, now_s: float) -> None:
        """One ran in place."""
        last_s = self._last_s
        last_s.append(transaction_s)
        if len(last_s) < WINDOW:
            return
        if min(last_s) > PROMPT_S or sum(last_s) > WINDOW * DREADFUL_S:
            self._until_s = now_s + self._pause_s
            self._pause_s = min(2.0 * self._pause_s, MOST_PAUSE_S)
            last_s.clear()
        else:
            self._pause_s = PAUSE_S


def _answer_all(batch: Sequence[_Waiting], answers: Sequence[Any]) -> None:
    for (_, future, told), answer in zip(batch, answers, strict=True):
        _answer(future, told, answer)


def _answer(future: asyncio.Future[Any], told: Told | None, answer: Any) -> None:
    error = answer if isinstance(answer, StoreError) else None
    if told is not None:
        told(error)
    if future.done():
        return
    if error is None:
        future.set_result(answer)
        return
    future.set_exception(error)
    if told is not None:
        # Somebody knows: asyncio need not complain where nobody waits.
        future.exception()


def transact(desk: Desk, steps: Sequence[Step]) -> list[Any]:
    """Run steps in one transaction; a step's own mistake is its result, and undoes the others' work as well.

    Raises:
        StoreError: Nothing is kept.
    """
    desk.begin()
    try:
        results = [step(desk) for step in steps]
        desk.commit()
    except StoreError:
        desk.rollback()
        raise
    except Exception as error:
        desk.rollback()
        raise StoreFailed from error
    return results
