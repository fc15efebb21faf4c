"""Requests that are under way together take each step together; one that is alone never waits."""

from __future__ import annotations

import asyncio
from functools import partial

from orchestrator.abreast import TURNS, Gathering
from orchestrator.admission import Admission

STEPS = 3


async def _steps(admission: Admission, *, seen: list[str], name: str) -> None:
    async with admission.enter(1.0):
        # All are in before one begins, as requests are that came together.
        await asyncio.sleep(0)
        for step in range(STEPS):
            seen.append(f"{name}{step}")
            await admission.aside()


async def test_those_that_are_in_take_each_step_together() -> None:
    admission, seen = Admission(max_running=8, max_queued=0), list[str]()
    await asyncio.gather(*[_steps(admission, seen=seen, name=name) for name in "abc"])
    assert seen == [f"{name}{step}" for step in range(STEPS) for name in "abc"]


async def test_who_is_alone_does_not_wait() -> None:
    admission = Admission(max_running=8, max_queued=0)
    loop, turns = asyncio.get_running_loop(), list[None]()
    async with admission.enter(1.0):
        loop.call_soon(turns.append, None)
        await admission.aside()
        assert not turns
        # The control: beside another one it lets the loop turn.
        admission.running += 1
        await admission.aside()
        admission.running -= 1
    assert turns == [None]


async def test_what_comes_alone_begins_at_once_and_the_rest_together_in_order() -> None:
    gathering, begun = Gathering(), list[str]()
    gathering.take(partial(begun.append, "first"), alone=True)
    assert begun == ["first"]
    gathering.take(partial(begun.append, "second"), alone=False)
    for turn in range(TURNS):
        assert begun == ["first"], turn
        # Not even one that would be alone overtakes those that wait.
        gathering.take(partial(begun.append, f"then {turn}"), alone=True)
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert begun == ["first", "second", *(f"then {turn}" for turn in range(TURNS))]


async def test_what_waits_can_be_begun_now_and_begins_once() -> None:
    gathering, begun = Gathering(), list[str]()
    gathering.take(partial(begun.append, "one"), alone=False)
    gathering.flush()
    assert begun == ["one"]
    await asyncio.sleep(0.01)
    assert begun == ["one"]
