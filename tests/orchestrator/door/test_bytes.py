"""One text of experts of different vocabularies on several nodes, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.fakes.arms import FakeArm
from tests.fakes.byte_voices import J_PER_READ, ByteVoice, never
from tests.fakes.live import Live, until
from tests.fakes.node import FakeNode
from tests.fakes.turn import Turn
from tests.fakes.voices import J_PER_TOKEN
from tests.orchestrator.door.asked import ask_together

COST = {"overhead_ms": 1.0, "decode_ms_per_token": 0.5, "completion_tokens": 8, "completion_p95_tokens": 8}
QUALITY = {"a": 0.5, "b": 0.4, "c": 0.3}
TEXT = "naïve days"
WORDS = tuple(word.encode() for word in ("naïve", " days"))
LETTERS = tuple(TEXT.encode()[place : place + 1] for place in range(len(TEXT.encode())))


def arm(expert: str, **text: Any) -> FakeArm:
    known = COST | {"decode_j_per_token": J_PER_TOKEN, "context_tokens": 4096, "tokenizer_digest": f"of-{expert}"}
    profile = known | {"capabilities": ["bytes"]} | text
    return FakeArm(expert, task="chat", energy_j=0.12, quality_fraction=QUALITY[expert], text=profile)


@asynccontextmanager
async def nodes(live: Live, voices: Mapping[str, ByteVoice], **text: Any) -> AsyncIterator[dict[str, FakeNode]]:
    """A node for each expert."""
    found = {}
    async with AsyncExitStack() as stack:
        for name, voice in voices.items():
            node = live.node(name=f"node-{name}", arms=[arm(name, **text)], behaviour=voice)
            found[name] = await stack.enter_async_context(node)
        await until(lambda: _routes(live) == len(voices) - 1)
        yield found


def _routes(live: Live) -> int:
    standing = live.gateway.planner.standing("chat")
    return sum(route.fusion.value == "bytes" for route in standing.plan.model.routes) if standing else 0


ask = partial(ask_together, mode="bytes", temperature=0.0)


async def test_words_and_letters_make_one_text(live: Live, openai: AsyncOpenAI) -> None:
    voices = {"a": ByteVoice(LETTERS), "b": ByteVoice(WORDS)}
    async with nodes(live, voices):
        reply = await ask(openai)
        stream = await ask(openai, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
    assert reply.choices[0].message.content == TEXT
    assert "".join(pieces) == TEXT
    assert len([piece for piece in pieces if piece]) >= 8, "as it is written, whole letters"
    assert reply.choices[0].finish_reason == "stop"
    told = reply.model_extra
    assert told["routing"]["fusion"] == "bytes"
    assert {name.partition("@")[0] for name in told["routing"]["experts"]} == {"a", "b"}
    # The heavier one's tokens end at every letter, so that every step is one byte; then comes the end.
    assert reply.usage.completion_tokens == len(LETTERS) + 1
    assert told["energy"]["energy_joules"] == pytest.approx(2 * (len(LETTERS) + 1) * J_PER_TOKEN)
    assert all(voice.heard == TEXT.encode() for voice in voices.values())


async def test_where_both_are_sure_of_words_a_step_is_a_word(live: Live, openai: AsyncOpenAI) -> None:
    voices = {"a": ByteVoice(WORDS), "b": ByteVoice(WORDS)}
    async with nodes(live, voices):
        reply = await ask(openai)
    assert reply.choices[0].message.content == TEXT
    assert [list(order.pieces) for order in voices["a"].asked] == [[], [WORDS[0]], [WORDS[1]], [b""]]


async def test_a_drawn_text_is_the_same_for_the_same_seed(live: Live, openai: AsyncOpenAI) -> None:
    voices = {"a": ByteVoice(LETTERS, 0.6), "b": ByteVoice(WORDS, 0.6)}
    async with nodes(live, voices):
        texts = [
            (await ask(openai, temperature=1.0, seed=seed, max_tokens=12)).choices[0].message.content
            for seed in (1, 1, 2, 3)
        ]
        never_z = await ask(openai, temperature=1.0, top_p=0.5)
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1
    assert any("z" in text for text in texts)
    assert never_z.choices[0].message.content == TEXT


async def test_only_by_name_and_only_experts_that_say_they_can(live: Live, openai: AsyncOpenAI) -> None:
    voices = {"a": ByteVoice(WORDS), "b": ByteVoice(LETTERS)}
    async with (
        nodes(live, voices),
        live.node(name="old", arms=[arm("c", capabilities=["turns"])], behaviour=never_asked),
    ):
        alone = await ask(openai, mode="auto")
        asked = await ask(openai)
        with pytest.raises(Exception, match=r"combines answers that way.*ask for bytes, which joins others"):
            await ask(openai, mode="token")
    assert alone.model_extra["routing"]["fusion"] == "none"
    assert alone.model_extra["routing"]["certificate"]["status"] == "optimal"
    assert asked.choices[0].message.content == TEXT
    async with live.node(arms=[arm("a", capabilities=["turns"]), arm("b", capabilities=[])], behaviour=voices["a"]):
        with pytest.raises(Exception, match=r"combines answers that way.*bytes needs two whose nodes say"):
            await ask(openai)


async def never_asked(turn: Turn) -> None:
    raise AssertionError(f"asked for {turn.work}")


async def test_no_log_probabilities_are_told_and_it_says_so(live: Live, openai: AsyncOpenAI) -> None:
    voices = {"a": ByteVoice(WORDS), "b": ByteVoice(LETTERS)}
    async with nodes(live, voices, capabilities=["bytes", "logprobs"]):
        with pytest.raises(Exception, match="log probabilities"):
            await ask(openai, logprobs=True, temperature=1.0)


# ---- ends


async def test_steps_end_a_text_and_half_a_letter_is_told_as_such(live: Live, openai: AsyncOpenAI) -> None:
    async with nodes(live, {"a": ByteVoice(LETTERS), "b": ByteVoice(WORDS)}):
        reply = await ask(openai, max_tokens=3)
    assert reply.choices[0].message.content == "na\ufffd"
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.completion_tokens == 3


async def test_a_context_that_is_full_ends_the_text_of_all(live: Live, openai: AsyncOpenAI) -> None:
    # The one whose text is told is not the one that ends it.
    async with nodes(live, {"a": ByteVoice(LETTERS), "b": ByteVoice(WORDS, room_bytes=3)}):
        reply = await ask(openai)
    assert reply.choices[0].message.content == "na\ufffd"
    assert reply.choices[0].finish_reason == "length"


async def test_joules_end_the_text_before_they_are_exceeded(live: Live, openai: AsyncOpenAI) -> None:
    long = tuple(b"abcdefgh"[place % 8 : place % 8 + 1] for place in range(200))
    voices = {letter: ByteVoice(long) for letter in "ab"}
    async with nodes(live, voices, prefill_j_per_token=J_PER_READ):
        free = await ask(openai, max_tokens=60)
        bound = await ask(openai, model="auto@1.5J", max_tokens=60)
        # What is read again beside the newest token is paid for too.
        for voice in voices.values():
            voice.reads = 5
        dear = await ask(openai, model="auto@1.5J", max_tokens=60)
    lengths = [len(reply.choices[0].message.content) for reply in (free, bound, dear)]
    assert lengths[0] == 60
    assert 1 < lengths[2] < lengths[1] < 60
    assert lengths[1] * 2 * (J_PER_TOKEN + 4 * J_PER_READ) > 1.5, "as long a text would have been too dear"
    for reply in (bound, dear):
        assert reply.model_extra["routing"]["stopped_by"] == "budget"
        assert 0.0 < reply.model_extra["energy"]["energy_joules"] <= 1.5


# ---- losing an expert


def fails_at(place: int) -> Any:
    async def before(turn: Turn, steps: int) -> None:
        if steps >= place:
            turn.failed("ENGINE_DIED", energy_j=0.07)
            await never(turn, steps)

    return before


async def test_who_is_left_goes_on_where_the_request_allows_it(live: Live, openai: AsyncOpenAI) -> None:
    voices = {"a": ByteVoice(LETTERS, before=fails_at(4)), "b": ByteVoice((*LETTERS[:5], b"f", b" now"))}
    async with nodes(live, voices):
        reply = await ask(openai, go_on=True)
        stream = await ask(openai, stream=True)
        with pytest.raises(Exception, match="continue_on_loss"):
            async for _ in stream:
                pass
    # Who is left says alone what follows.
    assert reply.choices[0].message.content == "naïvf now"
    told = reply.model_extra["routing"]["attempts"]
    assert {attempt["arm"][0]: attempt["outcome"] for attempt in told} == {"a": "failed", "b": "answered"}


async def test_who_stalls_or_tells_nothing_is_lost(live: Live, openai: AsyncOpenAI) -> None:
    async def stall(turn: Turn, steps: int) -> None:
        if steps >= 2:
            await never(turn, steps)

    voices = {"a": ByteVoice(LETTERS), "b": ByteVoice(LETTERS, before=stall)}
    async with nodes(live, voices):
        late = await ask(openai, go_on=True)
        voices["b"].before, voices["b"].silent = None, True
        silent = await ask(openai, go_on=True)
    for reply, reason in ((late, "LATE"), (silent, "OUTPUT_INVALID")):
        assert reply.choices[0].message.content == TEXT
        reasons = {attempt["arm"][0]: attempt["reason"] for attempt in reply.model_extra["routing"]["attempts"]}
        assert reasons["b"] == reason


async def test_what_cannot_be_read_ends_that_nodes_part_at_once(live: Live, openai: AsyncOpenAI) -> None:
    async def babble(turn: Turn, steps: int) -> None:
        if steps >= 2:
            turn.write("", strings=[b"z" * 257], probabilities=bytes(4))
            await never(turn, steps)

    voices = {"a": ByteVoice(LETTERS), "b": ByteVoice(LETTERS, before=babble)}
    async with nodes(live, voices) as found:
        reply = await ask(openai, go_on=True)
        assert reply.choices[0].message.content == TEXT
        reasons = {attempt["arm"][0]: attempt["reason"] for attempt in reply.model_extra["routing"]["attempts"]}
        assert reasons["b"] == "OUTPUT_INVALID"
        # Whoever has the text already and may not go on without it need not wait for the deadline either.
        async with asyncio.timeout(5):
            stream = await ask(openai, stream=True)
            with pytest.raises(Exception, match="continue_on_loss"):
                async for _ in stream:
                    pass
            await found["b"].cancelled(found["b"].seen.works[-1].work_id)
