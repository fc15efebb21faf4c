"""The window keeps the rules of `asyncio.timeout`."""

import asyncio

import pytest

from orchestrator.execution.window import Window


async def test_what_is_done_in_time_is_left_alone() -> None:
    with Window(0.02):
        await asyncio.sleep(0)
    # A timer that was left behind would cancel this.
    await asyncio.sleep(0.05)


@pytest.mark.parametrize("seconds", [0.001, 0.0, -1.0])
async def test_time_up_cancels_what_is_awaited_and_raises_timeout(seconds: float) -> None:
    with pytest.raises(TimeoutError), Window(seconds):
        await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_cancellation_from_elsewhere_passes_also_when_time_is_up_as_well() -> None:
    async def work() -> None:
        with Window(0.0):
            await asyncio.Event().wait()

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_block_passes_and_time_does_not_strike_later() -> None:
    with pytest.raises(ZeroDivisionError), Window(0.001):
        raise ZeroDivisionError
    await asyncio.sleep(0.005)


def test_outside_a_task_there_is_nothing_to_cancel() -> None:
    with pytest.raises(RuntimeError), Window(1.0):
        pass
