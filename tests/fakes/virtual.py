"""Virtual time: an event loop that never waits. When nothing is ready, its clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest import mock

Result = TypeVar("Result")


class _Jumping(selectors.SelectSelector):
    """A selector that takes a timeout as having passed."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("nothing is scheduled: in virtual time this would wait for ever")
        if not ready and timeout:
            self.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual monotonic seconds."""
        return self._jumping.now_s


class HereAndNow(Executor):
    """Runs what is submitted at once, in the caller: in virtual time it takes none."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def _monotonic(loop: VirtualLoop) -> Iterator[None]:
    with mock.patch.object(time, "monotonic", loop.time):
        yield


def run_virtually(main: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end on a virtual clock; `time.monotonic` is that clock meanwhile."""
    loop = VirtualLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner, _monotonic(loop):
        return runner.run(main)
