"""Conversations go where they have been read: OpenAI's client, a live gateway, nodes that look up what they have."""

from __future__ import annotations

from typing import Any

import pytest
from openai import AsyncOpenAI

from edgewise.v1 import accounts_pb2, accounts_pb2_grpc
from edgewise.v1 import common_pb2 as common
from orchestrator.client import AsyncClient, Generated, Message
from tests.fakes.arms import FakeArm
from tests.fakes.live import Live
from tests.fakes.turn import Behaviour, Turn
from tests.orchestrator.door.raw import post

COSTS: dict[str, Any] = {
    "prefill_ms_per_token": 0.01,
    "prefill_j_per_token": 0.001,
    "overhead_j": 0.01,
    "context_tokens": 8192,
    "completion_tokens": 1.0,
    "completion_p95_tokens": 1.0,
}
ARM = FakeArm("small", task="chat", energy_j=0.1, quality_fraction=0.7, text=COSTS)
STORY = "Once upon a time a node kept what it had read. " * 20


def keeps(*, tells: bool = True) -> Behaviour:
    """A node that keeps every conversation of a scope, counts what a new one shares with it, and charges the rest.

    One that tells nothing of it charges everything, so that nobody learns from its joules either.
    """
    kept: dict[str, list[str]] = {}

    async def behave(turn: Turn) -> None:
        text = "".join(message.content for message in turn.work.text.messages)
        before = kept.setdefault(turn.work.text.prefix_scope, [])
        shared = max((_common(text, earlier) for earlier in before), default=0)
        before.append(text + "The end.")
        tokens, cached = len(text) // 4, shared // 4
        usage = common.Usage(prompt_tokens=tokens, completion_tokens=1, cached_tokens=cached if tells else None)
        turn.say("The end.")
        energy_j = 0.01 + 0.001 * (tokens - cached if tells else tokens)
        turn.done(text="The end.", finish_reason=common.FINISH_REASON_STOP, usage=usage, energy_j=energy_j)

    return behave


def _common(one: str, other: str) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def turns(*texts: str) -> list[Any]:
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


async def ask(openai: AsyncOpenAI, *texts: str, user: str = "ada", **extra: Any) -> tuple[str, int | None, Any]:
    """The node that answered, the tokens that it had, and the reply's energy."""
    reply = await openai.chat.completions.create(model="auto", messages=turns(*texts), user=user, extra_body=extra)
    told: Any = reply.model_extra
    assert reply.usage is not None
    details = reply.usage.prompt_tokens_details
    return told["routing"]["experts"][0], details.cached_tokens if details else None, told


@pytest.mark.parametrize("tells", [True, False])
async def test_a_conversation_goes_on_where_it_was_read(live: Live, openai: AsyncOpenAI, *, tells: bool) -> None:
    async with (
        live.node(name="a", arms=[ARM], behaviour=keeps(tells=tells)),
        live.node(name="b", arms=[ARM], behaviour=keeps(tells=tells)),
    ):
        # Both have read the same, each of somebody else, so that nothing but that tells them apart.
        for user, node in (("bob", "a"), ("ada", "b")):
            where, cached, _ = await ask(openai, STORY, user=user, allowed_nodes=[node])
            assert (where, cached) == (f"small@{node}", 0 if tells else None)
        for user, node in (("ada", "b"), ("bob", "a"))[: 2 if tells else 1]:
            where, cached, told = await ask(openai, STORY, "The end.", "And then?", user=user)
            assert where == f"small@{node}"
            assert (cached is not None and cached >= len(STORY) // 4) is tells
            if tells:
                assert told["energy"]["energy_joules"] < 0.05


async def test_a_reply_in_pieces_tells_it_too(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[ARM], behaviour=keeps()):
        await ask(openai, STORY)
        stream = await openai.chat.completions.create(
            model="auto", messages=turns(STORY), user="ada", stream=True, stream_options={"include_usage": True}
        )
        usage = [chunk.usage async for chunk in stream if chunk.usage][-1]
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == len(STORY) // 4


@pytest.mark.parametrize("tells", [True, False])
async def test_the_client_over_grpc_is_told_too(live: Live, *, tells: bool) -> None:
    async with live.node(arms=[ARM], behaviour=keeps(tells=tells)), AsyncClient(live.address) as client:
        cached = []
        for _ in range(2):
            events = [event async for event in client.generate([Message("user", STORY)], user="ada")]
            assert isinstance(events[-1], Generated)
            cached.append(events[-1].cached_tokens)
    assert cached == ([0, len(STORY) // 4] if tells else [None, None])


async def test_of_another_user_nothing_is_known(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[ARM], behaviour=keeps()) as node:
        await ask(openai, STORY)
        assert (await ask(openai, STORY, user="bob"))[1] == 0
        assert (await ask(openai, STORY, user="ada"))[1] == len(STORY) // 4
        scopes = [work.text.prefix_scope for work in node.seen.works]
    assert scopes[0] == scopes[2] != scopes[1]
    # A hash of 16 bytes: the user's name is not in it.
    assert all(len(bytes.fromhex(scope)) == 16 for scope in scopes)


async def test_of_another_tenant_nothing_is_known_whatever_the_headers_ask_for(live: Live) -> None:
    books: Any = accounts_pb2_grpc.AccountsStub(live.channel)
    wanted = [accounts_pb2.CreateKeyRequest(tenant=name) for name in ("one", "two")]
    keys = [(await books.CreateKey(one, timeout=5)).secret for one in wanted]
    body = {"model": "auto", "messages": turns(STORY)}
    async with live.node(arms=[ARM], behaviour=keeps()) as node:
        for asked in ({}, {"x-edgewise-profile": "eco"}) * 2:
            for key in keys:
                answer = await post(live, "/v1/chat/completions", body, authorization=f"Bearer {key}", **asked)
                assert answer.status == 200
                assert answer.headers["x-edgewise-policy"] == asked.get("x-edgewise-profile", "balanced")
        scopes = [work.text.prefix_scope for work in node.seen.works]
    assert scopes == scopes[:2] * 4
    assert len(set(scopes)) == 2


async def test_why_tells_what_was_left_out(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[ARM], behaviour=keeps()), AsyncClient(live.address) as client:
        found: list[Any] = []
        for _ in range(2):
            raw = await openai.chat.completions.with_raw_response.create(
                model="auto", messages=turns(STORY), user="ada", extra_body={"explain": True}
            )
            told: Any = raw.parse().model_extra
            (candidate,) = (await client.explain(raw.headers["x-edgewise-request-id"])).candidates
            (told_candidate,) = told["explanation"]["candidates"]
            assert told_candidate["cached_tokens"] == pytest.approx(candidate.cached_tokens)
            found.append(candidate)
    fresh, again = found
    assert fresh.cached_tokens == 0.0
    assert again.cached_tokens > 200.0
    assert again.predicted_energy_j < 0.3 * fresh.predicted_energy_j
    # What is promised does not hang on what a node keeps.
    assert again.bound_energy_j > 0.3 * fresh.bound_energy_j


async def test_a_user_must_be_a_text(live: Live, openai: AsyncOpenAI) -> None:
    import openai as sdk

    wrong: Any = 7
    async with live.node(arms=[ARM], behaviour=keeps()):
        with pytest.raises(sdk.BadRequestError, match="user must be a text"):
            await openai.chat.completions.create(model="auto", messages=turns("x"), user=wrong)
