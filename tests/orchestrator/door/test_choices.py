"""Several answers to one question."""

from __future__ import annotations

from typing import Any

import openai as sdk
import pytest
from openai import AsyncOpenAI

from edgewise.v1 import common_pb2 as common
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import silent
from tests.fakes.live import Live, until
from tests.fakes.turn import Turn

CHAT = FakeArm("small", task="chat", energy_j=0.1)
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


async def by_seed(turn: Turn) -> None:
    """Says which seed it was given."""
    text = f"s{turn.work.text.parameters.seed}"
    turn.say(text, 1)
    usage = common.Usage(prompt_tokens=3, completion_tokens=1)
    turn.done(text=text, finish_reason=common.FINISH_REASON_STOP, usage=usage)


async def test_each_answer_is_drawn_by_itself_and_the_bill_is_of_all(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[CHAT], behaviour=by_seed) as node:
        raw = await openai.chat.completions.with_raw_response.create(
            model="auto@6J", messages=HELLO, n=3, seed=7, temperature=1.0
        )
        assert {round(work.energy_limit_j, 6) for work in node.seen.works} == {2.0}
    reply = raw.parse()
    assert [(one.index, one.message.content) for one in reply.choices] == [(0, "s7"), (1, "s8"), (2, "s9")]
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (3, 3)
    told: Any = reply.model_extra
    assert told["energy"]["energy_joules"] == pytest.approx(0.3)
    assert len(told["routing"]["attempts"]) == 3
    request_id = raw.headers["x-edgewise-request-id"]
    journal = live.gateway.service.journal
    assert [journal.get(name).outcome for name in (request_id, f"{request_id}-2")] == ["answered", "answered"]


async def test_a_stream_tells_the_answers_apart(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[CHAT], behaviour=by_seed):
        stream = await openai.chat.completions.create(
            model="auto", messages=HELLO, n=2, seed=1, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    said = {one.index: one.delta.content for chunk in chunks for one in chunk.choices if one.delta.content}
    ends = [(one.index, one.finish_reason) for chunk in chunks for one in chunk.choices if one.finish_reason]
    assert (said, ends) == ({0: "s1", 1: "s2"}, [(0, "stop"), (1, "stop")])
    told: Any = chunks[-1].model_extra
    assert told["energy"]["energy_joules"] == pytest.approx(0.2)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_greedy_answers_are_computed_once(live: Live, openai: AsyncOpenAI, stream: bool) -> None:
    asked: dict[str, Any] = {"model": "auto", "messages": HELLO, "n": 3, "seed": 5, "temperature": 0}
    async with live.node(arms=[CHAT], behaviour=by_seed) as node:
        if stream:
            chunks = [chunk async for chunk in await openai.chat.completions.create(**asked, stream=True)]
            pieces = [one for chunk in chunks for one in chunk.choices if one.delta.content]
            said = [(one.index, one.delta.content) for one in pieces]
            told: Any = chunks[-1].model_extra
        else:
            reply = await openai.chat.completions.create(**asked)
            said = [(one.index, one.message.content) for one in reply.choices]
            told = reply.model_extra
        assert len(node.seen.works) == 1
    assert said == [(0, "s5"), (1, "s5"), (2, "s5")]
    assert told["energy"]["energy_joules"] == pytest.approx(0.1)


async def test_one_that_fails_fails_all_and_stops_the_rest(live: Live, openai: AsyncOpenAI) -> None:
    async def behave(turn: Turn) -> None:
        if turn.work.text.parameters.seed == 2:
            turn.failed("INPUT_INVALID", final=True)
            return
        await silent()(turn)

    async with live.node(arms=[CHAT], behaviour=behave) as node:
        with pytest.raises(sdk.APIStatusError):
            await openai.chat.completions.create(model="auto", messages=HELLO, n=2, seed=1, temperature=1.0)
        await until(lambda: node.seen.cancelled_s)


@pytest.mark.parametrize("asked", [{"n": 9}, {"n": 0}, {"n": 2, "extra_headers": {"x-edgewise-request-id": "mine"}}])
async def test_what_is_not_offered_is_refused(live: Live, openai: AsyncOpenAI, asked: dict[str, Any]) -> None:
    async with live.node(arms=[CHAT], behaviour=by_seed) as node:
        with pytest.raises(sdk.BadRequestError, match="n "):
            await openai.chat.completions.create(model="auto", messages=HELLO, **asked)
        assert node.seen.works == []
