from __future__ import annotations

import asyncio

import numpy as np
import pytest

from nodes.agent import outbox as outbox_module
from nodes.agent.messages import Evidence, Heartbeat
from nodes.agent.outbox import MESSAGE_BYTES, Outbox, OutboxClosed


def beat(number: int) -> Heartbeat:
    return Heartbeat(number, 0, 0)


async def test_what_gathered_goes_out_together_and_in_order() -> None:
    outbox = Outbox()
    for number in range(5):
        await outbox.put(beat(number))
    assert await outbox.take() == [beat(number) for number in range(5)]


async def test_a_message_is_bounded_but_one_event_always_fits() -> None:
    outbox = Outbox()
    large = Evidence("d", {"a": np.zeros(MESSAGE_BYTES, np.uint8)})
    for event in (beat(1), large, beat(2)):
        await outbox.put(event)
    assert [len(await outbox.take()) for _ in range(3)] == [1, 1, 1]


async def test_full_means_wait() -> None:
    outbox = Outbox(limit=1)
    await outbox.put(beat(1))
    second = asyncio.create_task(outbox.put(beat(2)))
    await asyncio.sleep(0)
    assert not second.done()
    assert await outbox.take() == [beat(1)]
    await second
    assert await outbox.take() == [beat(2)]


async def test_closed_takes_nothing_more_and_gives_out_the_rest() -> None:
    outbox = Outbox(limit=1)
    await outbox.put(beat(1))
    waiting = asyncio.create_task(outbox.put(beat(2)))
    await asyncio.sleep(0)
    outbox.close()
    with pytest.raises(OutboxClosed):
        await waiting
    with pytest.raises(OutboxClosed):
        await outbox.put(beat(3))
    assert await outbox.take() == [beat(1)]
    assert await outbox.take() == []


@pytest.mark.parametrize("more", [False, True])
async def test_fast_events_wait_for_company_only_where_more_are_to_come(
    more: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "GATHER_S", 60.0)
    # The clock stands still: every event follows at once.
    outbox = Outbox(more=lambda: more, clock=lambda: 0.0)
    for number in range(100):
        await outbox.put(beat(number))
    await outbox.take()
    taking = asyncio.create_task(outbox.take())
    await asyncio.sleep(0.01)
    await outbox.put(beat(100))
    await asyncio.sleep(0.01)
    assert taking.done() is not more
    outbox.close()
    await taking
