"""Workers on this machine: this process, or a pool of others."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from orchestrator.workers.contract import (
    RETRY,
    THREADS,
    Item,
    Progress,
    Result,
    check_function,
    died_too_often,
    run,
    seed_of,
)

_CURE = "is there memory enough? Try fewer workers, or `--workers local`, which shows what happens"


class Here:
    """This process, one item after the other; see `Workers`."""

    def map(
        self,
        function: Callable[..., Result],
        items: Sequence[Item],
        *,
        seed: int | None = None,
        progress: Progress | None = None,
        retry: int = RETRY,  # noqa: ARG002 (nobody can die here but we)
    ) -> list[Result]:
        """See `Workers`."""
        results = []
        for index, item in enumerate(items):
            results.append(run(function, item, seed_of(seed, index)))
            if progress:
                progress(index + 1, len(items))
        return results


class Pool:
    """Processes of this machine, each on one thread; see `Workers`.

    Args:
        processes: How many.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes

    def map(
        self,
        function: Callable[..., Result],
        items: Sequence[Item],
        *,
        seed: int | None = None,
        progress: Progress | None = None,
        retry: int = RETRY,
    ) -> list[Result]:
        """See `Workers`. A pool one of whose processes died is replaced, and goes on with what is left."""
        check_function(function)
        found: dict[int, Result] = {}
        fruitless = 0
        while left := [index for index in range(len(items)) if index not in found]:
            before = len(found)
            try:
                with self._opened(function, len(left)) as pool:
                    asked = {pool.submit(_work, items[index], seed_of(seed, index)): index for index in left}
                    self._collect(asked, found, progress)
            except BrokenProcessPool as error:
                # Which item it was is not known; one that kills whoever computes it is what is left in the end.
                fruitless = 0 if len(found) > before else fruitless + 1
                if fruitless > retry:
                    raise died_too_often(fruitless, _CURE) from error
        return [found[index] for index in range(len(items))]

    def _collect(self, asked: dict[Future[Result], int], found: dict[int, Result], progress: Progress | None) -> None:
        total = len(found) + len(asked)
        for future in as_completed(asked):
            found[asked[future]] = future.result()
            if progress:
                progress(len(found), total)

    @contextmanager
    def _opened(self, function: Callable[..., Any], work: int) -> Iterator[ProcessPoolExecutor]:
        with one_thread_each():
            pool = ProcessPoolExecutor(
                min(self._processes, work), multiprocessing.get_context("spawn"), _settle_in, (function,)
            )
            try:
                yield pool
            finally:
                pool.shutdown(cancel_futures=True)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes started meanwhile compute on one thread."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def compute_on_one_thread() -> bool:
    """Have this process compute on one thread too; False where its libraries are loaded and it is too late."""
    if "numpy" in sys.modules:
        return os.environ.get(THREADS[0]) == "1"
    os.environ.update(dict.fromkeys(THREADS, "1"))
    return True


# ---- in the pool's processes

_function: Callable[..., Any] | None = None


def _settle_in(function: Callable[..., Any]) -> None:
    global _function
    _function = function
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)


def _work(item: Any, seed: int | None) -> Any:
    assert _function is not None
    return run(_function, item, seed)
