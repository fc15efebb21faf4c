"""Embeddings as OpenAI's client asks for them: by the experts that make any, at a price, and by nobody else."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import openai as sdk
import pytest
from openai import AsyncOpenAI

from edgewise.v1 import common_pb2 as common
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import speaks
from tests.fakes.live import Live
from tests.fakes.turn import Behaviour, Turn

MAKER = FakeArm("maker", task="chat", energy_j=0.2, quality_fraction=0.99, text={"capabilities": ["embeddings"]})
WRITER = FakeArm("writer", task="chat", energy_j=0.1, quality_fraction=0.5, text={"capabilities": []})
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


def embeds(*, answer: str | None = None) -> Behaviour:
    """A vector for each message: its length, and 0.5."""

    async def behave(turn: Turn) -> None:
        assert turn.work.text.parameters.embed
        texts = [message.content for message in turn.work.text.messages]
        vectors = [base64.b64encode(np.array([len(text), 0.5], "<f4").tobytes()).decode() for text in texts]
        usage = common.Usage(prompt_tokens=5)
        told = json.dumps(vectors) if answer is None else answer
        turn.done(text=told, finish_reason=common.FINISH_REASON_STOP, usage=usage)

    return behave


async def test_vectors_come_with_what_they_cost(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[MAKER, WRITER], behaviour=embeds(), by_expert={"writer": speaks("no")}):
        for form in ("float", "base64"):
            reply = await openai.embeddings.create(model="auto@1J", input=["hello", "hi"], encoding_format=form)
            vectors: list[Any] = [one.embedding for one in reply.data]
            if form == "base64":
                vectors = [np.frombuffer(base64.b64decode(one), "<f4").tolist() for one in vectors]
            assert vectors == [[5.0, 0.5], [2.0, 0.5]]
            assert [one.index for one in reply.data] == [0, 1]
            assert (reply.model, reply.usage.prompt_tokens, reply.usage.total_tokens) == ("maker", 5, 5)
            told: Any = reply.model_extra
            assert told["energy"]["energy_joules"] == pytest.approx(0.2)
            assert told["routing"]["experts"] == ["maker@fake-1"]
        assert (await openai.embeddings.create(model="maker", input="one")).data[0].embedding == [3.0, 0.5]


async def test_what_makes_embeddings_writes_no_texts_and_the_other_way_round(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[MAKER, WRITER], behaviour=embeds(), by_expert={"writer": speaks("hi")}):
        # It claims to be much better, all the same.
        assert (await openai.chat.completions.create(model="auto", messages=HELLO)).model == "writer"
        with pytest.raises(sdk.BadRequestError) as refused:
            await openai.chat.completions.create(model="maker", messages=HELLO)
        assert refused.value.code == "capability_missing"
        with pytest.raises(sdk.BadRequestError) as refused:
            await openai.embeddings.create(model="writer", input="x")
        assert refused.value.code == "capability_missing"


async def test_an_expert_that_says_so_does_both(live: Live, openai: AsyncOpenAI) -> None:
    both = FakeArm("both", task="chat", energy_j=0.2, text={"capabilities": ["embeddings", "chat"]})

    async def behave(turn: Turn) -> None:
        await (embeds() if turn.work.text.parameters.embed else speaks("hi"))(turn)

    async with live.node(arms=[both], behaviour=behave):
        assert (await openai.chat.completions.create(model="auto", messages=HELLO)).model == "both"
        assert (await openai.embeddings.create(model="auto", input="x")).model == "both"


@pytest.mark.parametrize(
    "asked", [{"input": []}, {"input": ""}, {"input": ["x"] * 65}, {"input": [1, 2]}, {"input": "x", "dimensions": 2}]
)
async def test_what_is_not_taken_is_refused(live: Live, openai: AsyncOpenAI, asked: dict[str, Any]) -> None:
    async with live.node(arms=[MAKER], behaviour=embeds()) as node:
        with pytest.raises(sdk.BadRequestError):
            await openai.embeddings.create(model="auto", **asked)
        assert node.seen.works == []


async def test_which_of_several_spaces_it_is_must_be_said(live: Live, openai: AsyncOpenAI) -> None:
    other = FakeArm("other", task="chat", energy_j=0.1, text={"capabilities": ["embeddings", "embeddings:2"]})
    async with live.node(arms=[MAKER, other, WRITER], behaviour=embeds()) as node:
        with pytest.raises(sdk.BadRequestError, match="maker, other") as refused:
            await openai.embeddings.create(model="auto", input="x")
        assert refused.value.param == "model"
        assert node.seen.works == []
        assert (await openai.embeddings.create(model="maker", input="x")).model == "maker"
        # Only one has so many numbers.
        assert (await openai.embeddings.create(model="auto", input="x", dimensions=2)).model == "other"
        with pytest.raises(sdk.BadRequestError, match="embeddings:3"):
            await openai.embeddings.create(model="auto", input="x", dimensions=3)


async def test_several_texts_may_be_longer_together_than_one_may_be(live: Live, openai: AsyncOpenAI) -> None:
    tight = FakeArm("tight", task="chat", text={"capabilities": ["embeddings"], "context_tokens": 64})
    async with live.node(arms=[tight], behaviour=embeds()):
        reply = await openai.embeddings.create(model="auto", input=["word " * 16] * 8)
        assert len(reply.data) == 8
        with pytest.raises(sdk.BadRequestError) as refused:
            await openai.embeddings.create(model="auto", input=["x", "word " * 80])
        assert refused.value.code == "context_length_exceeded"


@pytest.mark.parametrize("answer", ["", "7", "[]", '["%%", "AAAA"]', '["AAA=", "AAAAAA=="]'])
async def test_vectors_that_are_none_are_a_failure(live: Live, openai: AsyncOpenAI, answer: str) -> None:
    async with live.node(arms=[MAKER], behaviour=embeds(answer=answer)):
        with pytest.raises(sdk.InternalServerError):
            await openai.embeddings.create(model="auto", input=["a", "b"])


async def test_what_was_read_for_vectors_makes_no_text_cheaper(live: Live, openai: AsyncOpenAI) -> None:
    both = FakeArm("both", task="chat", energy_j=0.2, text={"capabilities": ["embeddings", "chat"]})
    story = "word " * 60

    async def behave(turn: Turn) -> None:
        await (embeds() if turn.work.text.parameters.embed else speaks("hi"))(turn)

    async with live.node(arms=[both], behaviour=behave) as node:
        known = live.gateway.service.fleet.board.states[0].text.prefixes._known
        await openai.embeddings.create(model="auto", input=story)
        assert len(known) == 0
        await openai.chat.completions.create(model="auto", messages=[{"role": "user", "content": story}])
        assert len(known) == 2, "a text is known by its beginnings"
        assert [bool(work.text.prefix_scope) for work in node.seen.works] == [False, True]
