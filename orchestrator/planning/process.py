"""The process in which plans are made."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Executor, ProcessPoolExecutor

from orchestrator.planning.make import settle_in


def planning_process() -> Executor:
    """Started at the first plan."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(max_workers=1, mp_context=context, initializer=settle_in)


def end_process(executor: Executor) -> None:
    """Give up a planning process, also in the middle of a plan: nothing may wait for one that nobody wants."""
    executor.shutdown(wait=False, cancel_futures=True)
    if isinstance(executor, ProcessPoolExecutor):
        for process in multiprocessing.active_children():
            process.terminate()
