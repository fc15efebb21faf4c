from __future__ import annotations

import asyncio

import pytest

from nodes.engines.slots import Slots
from nodes.errors import EngineBusy, EngineDied


async def _line_up(slots: Slots, count: int) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(slots.take()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_first_come_first_served_and_full_means_refused() -> None:
    slots = Slots(1, queue_limit=2)
    await slots.take()
    first, second = await _line_up(slots, 2)
    with pytest.raises(EngineBusy, match="limit of 2"):
        await slots.take()
    slots.give_back()
    await first
    assert not second.done()
    assert (slots.taken, slots.queued) == (1, 1)
    slots.give_back()
    await second
    slots.give_back()
    assert (slots.taken, slots.queued) == (0, 0)


async def test_who_leaves_the_line_costs_no_slot() -> None:
    slots = Slots(1, queue_limit=2)
    await slots.take()
    first, second = await _line_up(slots, 2)
    first.cancel()
    await asyncio.wait([first])
    slots.give_back()
    await second
    assert (slots.taken, slots.queued) == (1, 0)


async def test_a_turn_that_comes_together_with_a_cancel_is_passed_on() -> None:
    slots = Slots(1, queue_limit=2)
    await slots.take()
    first, second = await _line_up(slots, 2)
    slots.give_back()
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    await second
    assert slots.taken == 1


async def test_nobody_overtakes_the_line() -> None:
    slots = Slots(1, queue_limit=5)
    await slots.take()
    (waiting,) = await _line_up(slots, 1)
    slots.give_back()
    late = asyncio.create_task(slots.take())
    await waiting
    await asyncio.sleep(0)
    assert not late.done()
    slots.give_back()
    await late


async def test_the_line_can_be_sent_away() -> None:
    slots = Slots(1, queue_limit=5)
    await slots.take()
    waiting = await _line_up(slots, 3)
    slots.refuse_waiting("gone")
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [EngineDied] * 3
    assert (slots.taken, slots.queued) == (1, 0)
