"""How soon a text begins and how fast it goes on: told in the reply, counted, and held against what was asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from openai import AsyncOpenAI

from edgewise.v1 import common_pb2 as common
from tests.fakes.arms import FakeArm
from tests.fakes.live import Live
from tests.fakes.turn import Turn
from tests.orchestrator.door.raw import get

COST = {"overhead_ms": 1.0, "decode_ms_per_token": 0.1, "completion_tokens": 3, "completion_p95_tokens": 4}
CHAT = FakeArm("small", task="chat", energy_j=0.1, text=COST)
FIRST_S, NEXT_S = 0.06, 0.03


async def behave(turn: Turn) -> None:
    """Slower than its arm announces."""
    await asyncio.sleep(FIRST_S)
    for word in ("one ", "two ", "three"):
        turn.say(word, 1)
        await asyncio.sleep(NEXT_S)
    usage = common.Usage(prompt_tokens=3, completion_tokens=3)
    turn.done(text="one two three", finish_reason=common.FINISH_REASON_STOP, usage=usage)


async def told(openai: AsyncOpenAI, budget: dict[str, float], *, stream: bool = True) -> dict[str, Any]:
    asked: Any = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], "stream": stream}
    reply: Any = await openai.chat.completions.create(**asked, extra_body={"budget": budget})
    last = [chunk async for chunk in reply][-1] if stream else reply
    routing: dict[str, Any] = last.model_extra["routing"]
    return routing


@pytest.mark.parametrize(
    ("budget", "met"),
    [
        ({}, True),
        ({"max_ttft_ms": 5000, "max_tpot_ms": 5000}, True),
        ({"max_ttft_ms": 40}, False),
        ({"max_tpot_ms": 10}, False),
    ],
)
async def test_a_stream_says_whether_it_was_as_quick_as_was_asked(
    live: Live, openai: AsyncOpenAI, budget: dict[str, float], met: bool
) -> None:
    async with live.node(arms=[CHAT], behaviour=behave):
        routing = await told(openai, budget)
    assert routing["budget_met"] is met
    actual = routing["actual"]
    assert actual["first_token_ms"] >= 1e3 * FIRST_S * 0.9
    assert actual["token_ms"] >= 1e3 * NEXT_S * 0.9
    assert actual["ms"] >= actual["first_token_ms"] + 2 * actual["token_ms"] - 1.0


async def test_both_are_counted_and_a_whole_reply_has_neither(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[CHAT], behaviour=behave):
        whole = await told(openai, {}, stream=False)
        await told(openai, {})
    assert (whole["actual"]["first_token_ms"], whole["actual"]["token_ms"]) == (None, None)
    live.gateway.service.publish()
    text = (await get(live, "/metrics")).body.decode()
    assert "edgewise_time_to_first_token_seconds_count 1.0" in text
    assert "edgewise_time_per_output_token_seconds_count 1.0" in text
    # Either had one attempt, which answered.
    assert "edgewise_retries_total 0.0" in text
