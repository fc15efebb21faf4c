"""One text of experts on several nodes, over HTTP: who writes what, what is lost, what it costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from openai import AsyncOpenAI

from orchestrator.execution.schedule import Schedule
from tests.fakes.arms import FakeArm
from tests.fakes.live import Live, until
from tests.fakes.node import FakeNode
from tests.fakes.turn import Turn
from tests.fakes.voices import J_PER_TOKEN, Voice, never
from tests.orchestrator.door.asked import ask_together

COST = {"overhead_ms": 1.0, "decode_ms_per_token": 0.5, "completion_tokens": 12, "completion_p95_tokens": 12}
QUALITY = {"a": 0.5, "b": 0.4, "c": 0.3}
WEIGHTS = list(QUALITY.values())


def arm(expert: str, **text: Any) -> FakeArm:
    known = COST | {"decode_j_per_token": J_PER_TOKEN, "context_tokens": 4096, "tokenizer_digest": "letters"}
    profile = known | {"capabilities": ["turns"]} | text
    return FakeArm(expert, task="chat", energy_j=0.12, quality_fraction=QUALITY[expert[0]], text=profile)


@asynccontextmanager
async def nodes(live: Live, voices: Mapping[str, Voice], **text: Any) -> AsyncIterator[dict[str, FakeNode]]:
    """A node for each expert."""
    found = {}
    async with AsyncExitStack() as stack:
        for name, voice in voices.items():
            node = live.node(name=f"node-{name}", arms=[arm(name[0], **text)], behaviour=voice)
            found[name] = await stack.enter_async_context(node)
        await until(lambda: _routes(live) == len({name[0] for name in voices}) - 1)
        yield found


def _routes(live: Live) -> int:
    standing = live.gateway.planner.standing("chat")
    return sum(route.fusion.value == "token" for route in standing.plan.model.routes) if standing else 0


def three(**fields: Any) -> dict[str, Voice]:
    return {letter: Voice(letter, **fields) for letter in "abc"}


ask = partial(ask_together, mode="token", temperature=1.0)


def spelled(weights: list[float], tokens: int, *, seed: int = 4) -> str:
    schedule = Schedule(weights, seed)
    return "".join("abc"[schedule.expert(place)] for place in range(tokens))


def experts_of(reply: Any) -> set[str]:
    return {name.partition("@")[0] for name in reply.model_extra["routing"]["experts"]}


async def test_every_token_is_written_by_the_expert_whose_turn_it_is(live: Live, openai: AsyncOpenAI) -> None:
    voices = {letter: Voice(letter, length=30) for letter in "ab"}
    async with nodes(live, voices):
        reply = await ask(openai)
        stream = await ask(openai, stream=True)
        pieces = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]
    text = spelled(WEIGHTS[:2], 30)
    assert reply.choices[0].message.content == text
    assert "".join(piece or "" for piece in pieces) == text
    assert sum(len(piece or "") == 1 for piece in pieces) == 30, "token by token"
    assert [voice.computed for voice in voices.values()] == [text.count("a"), text.count("b")]
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.completion_tokens == 30
    told = reply.model_extra
    assert told["routing"]["fusion"] == "token"
    assert told["energy"]["energy_joules"] == pytest.approx(30 * J_PER_TOKEN)
    assert {node["node"]: node["joules"] for node in told["energy"]["nodes"]} == pytest.approx(
        {"node-a": text.count("a") * J_PER_TOKEN, "node-b": text.count("b") * J_PER_TOKEN}
    )
    # Runs are ordered at once, and everybody hears each token of others once.
    runs = 1 + sum(one != other for one, other in pairwise(text))
    assert sum(bool(order.count) for voice in voices.values() for order in voice.asked) == runs
    assert all(bytes(voice.heard).decode() == text[: len(voice.heard)] for voice in voices.values())


async def test_one_expert_alone_is_optimal_unless_turns_are_asked_for(live: Live, openai: AsyncOpenAI) -> None:
    async with nodes(live, three()):
        reply = await ask(openai, mode="auto")
        asked = await ask(openai)
    told = reply.model_extra
    assert told["explanation"]["chosen"] == "a:v1@node-a"
    assert told["routing"]["fusion"] == "none"
    assert told["routing"]["certificate"]["status"] == "optimal"
    by_route = {one["route"]: one for one in told["explanation"]["candidates"]}
    turns = next(one for name, one in by_route.items() if name.endswith("(token)"))
    assert turns["quality"] < by_route["a:v1@node-a"]["quality"], "what was not measured is not promised"
    assert asked.model_extra["routing"]["fusion"] == "token"


async def test_only_experts_of_one_vocabulary_that_take_turns_write_together(live: Live, openai: AsyncOpenAI) -> None:
    other, deaf = arm("b", tokenizer_digest="bytes"), arm("c", capabilities=[])
    async with live.node(arms=[arm("a"), other, deaf], behaviour=Voice("a")):
        with pytest.raises(Exception, match="No route of this task combines answers that way"):
            await ask(openai)


# ---- losing an expert


def dies_at(place: int) -> Any:
    leaving = []

    async def before(turn: Turn, tokens: int) -> None:
        if tokens >= place:
            leaving.append(asyncio.ensure_future(turn.vanish()))
            await never(turn, tokens)

    return before


def fails_at(place: int, energy_j: float = 0.07) -> Any:
    async def before(turn: Turn, tokens: int) -> None:
        if tokens >= place:
            turn.failed("ENGINE_DIED", energy_j=energy_j)
            await never(turn, tokens)

    return before


async def test_who_is_left_goes_on_where_the_request_allows_it(live: Live, openai: AsyncOpenAI) -> None:
    voices = {"a": Voice("a", 30), "b": Voice("b", 30, before=fails_at(8))}
    async with nodes(live, voices):
        reply = await ask(openai, go_on=True)
    text, whole = reply.choices[0].message.content, spelled(WEIGHTS[:2], 30)
    lost_at = next(place for place, letter in enumerate(whole) if letter == "b" and place >= 8)
    assert text == whole[:lost_at] + "a" * (30 - lost_at)
    told = reply.model_extra["routing"]["attempts"]
    assert {attempt["arm"][0]: attempt["outcome"] for attempt in told} == {"a": "answered", "b": "failed"}
    assert reply.model_extra["energy"]["energy_joules"] == pytest.approx(0.07 + text.count("a") * J_PER_TOKEN)


async def test_without_leave_a_streamed_text_ends_with_an_error(live: Live, openai: AsyncOpenAI) -> None:
    voices = {"a": Voice("a", 30), "b": Voice("b", 30, before=fails_at(8))}
    async with nodes(live, voices) as found:
        stream = await ask(openai, stream=True)
        with pytest.raises(Exception, match="continue_on_loss"):
            async for _ in stream:
                pass
        for expert in "a":
            await found[expert].cancelled(found[expert].seen.works[-1].work_id)


async def test_a_text_that_nobody_has_read_yet_fails_as_any_other(live: Live, openai: AsyncOpenAI) -> None:
    voices = {"a": Voice("a", 20), "b": Voice("b", 20, before=fails_at(4))}
    async with nodes(live, voices):
        with pytest.raises(Exception, match="No expert could answer"):
            await ask(openai)


@pytest.mark.parametrize("way", ["stalls", "vanishes"])
async def test_an_expert_that_stalls_or_vanishes_is_lost_too(live: Live, openai: AsyncOpenAI, way: str) -> None:
    async def stall(turn: Turn, tokens: int) -> None:
        if tokens >= 8:
            await never(turn, tokens)

    voices = {"a": Voice("a", 30), "b": Voice("b", 30, before=stall if way == "stalls" else dies_at(8))}
    async with nodes(live, voices):
        reply = await ask(openai, go_on=True)
        assert len(reply.choices[0].message.content) == 30
        told = {attempt["arm"][0]: attempt for attempt in reply.model_extra["routing"]["attempts"]}
        assert told["b"]["reason"] == ("LATE" if way == "stalls" else "NODE_GONE")
        assert told["b"]["joules"] > 0.0, "what it took nobody told: as predicted"


async def test_more_tokens_than_were_asked_for_are_no_answer(live: Live, openai: AsyncOpenAI) -> None:
    async def babbles(turn: Turn, tokens: int) -> None:
        if tokens >= 4:
            turn.write("xyz", *b"xyzxyzxyzxyzxyzxyzxyzxyzxyzxyzxyzxyzxyz")

    voices = {"a": Voice("a", 20), "b": Voice("b", 20, before=babbles)}
    async with nodes(live, voices):
        reply = await ask(openai, go_on=True)
        assert "x" not in reply.choices[0].message.content
        told = {attempt["arm"][0]: attempt["reason"] for attempt in reply.model_extra["routing"]["attempts"]}
        assert told["b"] == "OUTPUT_INVALID"


# ---- cancelling, joules, time


async def test_a_client_that_leaves_frees_every_node(live: Live, openai: AsyncOpenAI) -> None:
    async def slowly(_turn: Turn, _tokens: int) -> None:
        await asyncio.sleep(0.02)

    voices = {letter: Voice(letter, 400, before=slowly) for letter in "ab"}
    async with nodes(live, voices) as found:
        stream = await ask(openai, stream=True, max_tokens=400)
        seen = 0
        async for _ in stream:
            seen += 1
            if seen == 12:
                break
        await stream.close()
        for node in found.values():
            await node.cancelled(node.seen.works[-1].work_id)
        await until(lambda: all(load.pending == 0 for load in live.gateway.service.fleet.board.nodes.values()))


async def test_joules_end_the_text_before_they_are_exceeded(live: Live, openai: AsyncOpenAI) -> None:
    voices = {letter: Voice(letter, 400) for letter in "ab"}
    async with nodes(live, voices, completion_tokens=8, completion_p95_tokens=8):
        free = await ask(openai, max_tokens=60)
        bound = await ask(openai, model="auto@0.6J", max_tokens=60)
        greedy = await ask(openai, model="auto@0.6J", max_tokens=60, temperature=0.0)
        with pytest.raises(Exception, match="No expert fits this budget"):
            await ask(openai, model="auto@0.01J", max_tokens=60)
    assert len(free.choices[0].message.content) == 60
    for reply in (bound, greedy):
        told = reply.model_extra
        assert 4 < len(reply.choices[0].message.content) < 60
        assert told["routing"]["stopped_by"] == "budget"
        assert 0.0 < told["energy"]["energy_joules"] <= 0.6
        assert told["routing"]["budget_met"]


async def test_what_a_lost_expert_took_shortens_the_text(live: Live, openai: AsyncOpenAI) -> None:
    voices = {letter: Voice(letter, 400) for letter in "ab"}
    async with nodes(live, voices, completion_tokens=8, completion_p95_tokens=8):
        whole = await ask(openai, model="auto@0.6J", max_tokens=60, go_on=True)
        voices["b"].before = fails_at(4, energy_j=0.4)
        reply = await ask(openai, model="auto@0.6J", max_tokens=60, go_on=True)
    assert 4 <= len(reply.choices[0].message.content) < len(whole.choices[0].message.content)
    told = reply.model_extra
    assert told["routing"]["stopped_by"] == "budget"
    assert 0.4 < told["energy"]["energy_joules"] <= 0.6


async def test_time_ends_the_text(live: Live, openai: AsyncOpenAI) -> None:
    async def slowly(_turn: Turn, _tokens: int) -> None:
        await asyncio.sleep(0.05)

    voices = {letter: Voice(letter, 400, before=slowly) for letter in "ab"}
    async with nodes(live, voices) as found:
        stream = await ask(openai, model="auto@500ms", stream=True, max_tokens=400)
        with pytest.raises(Exception, match="latency budget"):
            async for _ in stream:
                pass
        for node in found.values():
            await node.cancelled(node.seen.works[-1].work_id)


# ---- greedy


async def test_a_greedy_text_takes_the_most_probable_of_the_average(live: Live, openai: AsyncOpenAI) -> None:
    # Each alone would write its own letter; together "z" is more probable than either.
    voices = {"a": Voice("a", 6, probability=0.55), "b": Voice("b", 6, probability=0.55)}
    async with nodes(live, voices):
        reply = await ask(openai, temperature=0.0)
        assert 0.45 > 0.55 * 0.5 / 0.9
        assert reply.choices[0].message.content == "zzzzzz"
        assert {voice.computed for voice in voices.values()} == {6}
        voices["a"].probability = 0.99
        assert (await ask(openai, temperature=0.0)).choices[0].message.content == "aaaaaa"


async def test_a_greedy_text_tells_no_log_probabilities_and_says_so(live: Live, openai: AsyncOpenAI) -> None:
    async with nodes(live, {letter: Voice(letter) for letter in "ab"}, capabilities=["turns", "logprobs"]):
        with pytest.raises(Exception, match="log probabilities"):
            await ask(openai, temperature=0.0, logprobs=True)
        assert (await ask(openai, logprobs=True)).choices[0].finish_reason == "stop"


async def test_a_greedy_text_goes_on_without_an_expert_that_is_lost(live: Live, openai: AsyncOpenAI) -> None:
    voices = {"a": Voice("a", 9, before=fails_at(4)), "b": Voice("b", 9, probability=0.8)}
    async with nodes(live, voices):
        reply = await ask(openai, temperature=0.0, go_on=True)
        assert reply.choices[0].message.content == "aaaa" + "bbbbb"
        stream = await ask(openai, temperature=0.0, stream=True)
        with pytest.raises(Exception, match="continue_on_loss"):
            async for _ in stream:
                pass
