"""Probabilities of tokens, from the node to OpenAI's client, in chats and completions, whole and as they come."""

from __future__ import annotations

import json
from typing import Any

import openai as sdk
import pytest
from openai import AsyncOpenAI

from edgewise.v1 import common_pb2 as common
from edgewise.v1 import fleet_pb2 as fleet
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import speaks
from tests.fakes.live import Live
from tests.fakes.turn import Behaviour, Turn

ABLE = FakeArm("able", task="chat", energy_j=0.5, text={"capabilities": ["logprobs"], "decode_ms_per_token": 0.1})
PLAIN = FakeArm("plain", task="chat", energy_j=0.1)
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


def token(text: str, tops: int) -> dict[str, Any]:
    told = {"token": text, "logprob": -0.5, "bytes": list(text.encode())}
    return {**told, "top_logprobs": [told, {"token": "?", "logprob": -2.0, "bytes": [63]}][:tops]}


def tells(*pieces: str) -> Behaviour:
    """Speaks, with probabilities where they are asked for."""

    async def behave(turn: Turn) -> None:
        parameters = turn.work.text.parameters
        tops = parameters.top_logprobs if parameters.HasField("top_logprobs") else None
        content = [] if tops is None else [token(piece, tops) for piece in pieces]
        for number, piece in enumerate(pieces if not turn.work.text.whole else ()):
            delta = fleet.TextDelta(work_id=turn.work.work_id, text=piece, token_ids=[number])
            delta.logprobs_json = json.dumps(content[number : number + 1])
            turn.emit(fleet.NodeEvent(delta=delta))
        usage = common.Usage(prompt_tokens=3, completion_tokens=len(pieces))
        told = json.dumps(content) if content else ""
        turn.done(text="".join(pieces), logprobs_json=told, finish_reason=common.FINISH_REASON_STOP, usage=usage)

    return behave


async def test_a_chat_tells_them_where_asked(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[ABLE, PLAIN], behaviour=tells("Hel", "lo"), by_expert={"plain": speaks("no")}):
        reply = await openai.chat.completions.create(model="auto", messages=HELLO, logprobs=True, top_logprobs=2)
        unasked = await openai.chat.completions.create(model="able", messages=HELLO)
    assert reply.model == "able"
    assert reply.choices[0].logprobs is not None
    content = reply.choices[0].logprobs.content or []
    assert [(one.token, one.logprob, one.bytes) for one in content] == [
        ("Hel", -0.5, [72, 101, 108]),
        ("lo", -0.5, [108, 111]),
    ]
    assert [top.token for top in content[0].top_logprobs] == ["Hel", "?"]
    assert unasked.choices[0].logprobs is None


async def test_a_stream_has_those_of_each_piece(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[ABLE], behaviour=tells("Hel", "lo")):
        stream = await openai.chat.completions.create(model="able", messages=HELLO, logprobs=True, stream=True)
        told = [chunk.choices[0].logprobs async for chunk in stream if chunk.choices]
    assert [[one.token for one in logprobs.content or []] for logprobs in told if logprobs] == [["Hel"], ["lo"]]
    assert not any(one.top_logprobs for logprobs in told if logprobs for one in logprobs.content or [])


async def test_completions_have_a_form_of_their_own(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[ABLE], behaviour=tells("Hel", "lo")):
        whole = await openai.completions.create(model="able", prompt="x", logprobs=2)
        stream = await openai.completions.create(model="able", prompt="x", logprobs=1, stream=True)
        offsets = [chunk.choices[0].logprobs.text_offset async for chunk in stream if chunk.choices[0].logprobs]
    told = whole.choices[0].logprobs
    assert told is not None
    assert (told.tokens, told.token_logprobs, told.text_offset) == (["Hel", "lo"], [-0.5, -0.5], [0, 3])
    assert told.top_logprobs == [{"Hel": -0.5, "?": -2.0}, {"lo": -0.5, "?": -2.0}]
    assert offsets == [[0], [3]]


async def test_where_nobody_can_tell_them_the_request_is_refused(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[PLAIN], behaviour=speaks("no")):
        with pytest.raises(sdk.BadRequestError, match="logprobs") as refused:
            await openai.chat.completions.create(model="auto", messages=HELLO, logprobs=True)
    assert refused.value.code == "capability_missing"


@pytest.mark.parametrize("asked", [{"top_logprobs": 2}, {"logprobs": True, "top_logprobs": 21}, {"logprobs": 3}])
async def test_what_cannot_be_meant_is_refused(live: Live, openai: AsyncOpenAI, asked: dict[str, Any]) -> None:
    async with live.node(arms=[ABLE], behaviour=tells("x")):
        with pytest.raises(sdk.BadRequestError, match="logprobs"):
            await openai.chat.completions.create(model="auto", messages=HELLO, extra_body=asked)


@pytest.mark.parametrize("said", ["{", "7", "[7]", '{"a": 1}', "[" * 100_000])
async def test_what_a_node_says_amiss_is_left_out(live: Live, openai: AsyncOpenAI, said: str) -> None:
    async def behave(turn: Turn) -> None:
        turn.done(text="x", finish_reason=common.FINISH_REASON_STOP, logprobs_json=said)

    async with live.node(arms=[ABLE], behaviour=behave):
        reply = await openai.chat.completions.create(model="auto", messages=HELLO, logprobs=True)
    assert (reply.choices[0].message.content, reply.choices[0].logprobs) == ("x", None)
