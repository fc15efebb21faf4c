"""Self-consistency: several samples of one question, one answer."""

from __future__ import annotations

from typing import Any

import openai as sdk
import pytest
from openai import AsyncOpenAI

from orchestrator.gateway.samples import settled
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import by_seed
from tests.fakes.live import Live

CHAT = FakeArm("small", task="chat", energy_j=0.1)
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


async def ask(openai: AsyncOpenAI, samples: int, **more: Any) -> Any:
    fusion = {"mode": "vote", "samples": samples}
    asked: dict[str, Any] = {"model": "auto", "messages": HELLO, "seed": 7, **more}
    return await openai.chat.completions.create(**asked, extra_body={"fusion": fusion})


async def test_the_answer_of_most_samples_stands_and_all_are_paid_for(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[CHAT], behaviour=by_seed(["Rome", "Paris", "Rome", " Paris.", '"Paris"'])) as node:
        reply = await ask(openai, 5, model="auto@6J")
        assert {round(work.energy_limit_j, 6) for work in node.seen.works} == {1.2}
        assert all(work.text.parameters.temperature == pytest.approx(0.7) for work in node.seen.works)
    assert reply.choices[0].message.content.strip(' ".') == "Paris"
    assert len(reply.choices) == 1
    assert reply.usage.completion_tokens == 2
    told = reply.model_extra
    assert told["routing"]["fusion"] == "vote"
    assert told["energy"]["energy_joules"] == pytest.approx(0.5)
    assert len(told["routing"]["attempts"]) == 5


async def test_what_cannot_change_the_answer_is_cancelled_and_still_in_the_bill(
    live: Live, openai: AsyncOpenAI
) -> None:
    behaviour = by_seed(["Paris"] * 5, slow=frozenset({1, 3}))
    async with live.node(arms=[CHAT], behaviour=behaviour, concurrency=5) as node:
        reply = await ask(openai, 5)
        slow = [work for work in node.seen.works if work.text.parameters.seed in (8, 10)]
        for work in slow:
            await node.cancelled(work.work_id)
    assert reply.choices[0].message.content == "Paris"
    told = reply.model_extra["routing"]["attempts"]
    assert sorted(attempt["outcome"] for attempt in told) == ["answered"] * 3 + ["cancelled"] * 2


async def test_a_sample_that_fails_is_done_without(live: Live, openai: AsyncOpenAI) -> None:
    behaviour = by_seed(["?", "Paris", "Paris"], broken=frozenset({0}))
    async with live.node(arms=[CHAT], behaviour=behaviour):
        reply = await ask(openai, 3)
    assert reply.choices[0].message.content == "Paris"
    assert "failed" in {attempt["outcome"] for attempt in reply.model_extra["routing"]["attempts"]}


async def test_where_all_fail_the_request_does(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[CHAT], behaviour=by_seed(["?"] * 3, broken=frozenset({0, 1, 2}))):
        with pytest.raises(sdk.APIStatusError):
            await ask(openai, 3)


async def test_a_stream_is_one_piece_once_the_answer_is_settled(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[CHAT], behaviour=by_seed(["Rome", "Paris", "Paris"])):
        chunks = [chunk async for chunk in await ask(openai, 3, stream=True)]
    said = [one.delta.content for chunk in chunks for one in chunk.choices if one.delta.content]
    assert said == ["Paris"]
    assert chunks[-1].model_extra["energy"]["energy_joules"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("fusion", "more"),
    [
        ({"mode": "vote", "samples": 3}, {"temperature": 0}),
        ({"mode": "vote", "samples": 3}, {"n": 2}),
        ({"mode": "vote", "samples": 3}, {"extra_headers": {"x-edgewise-request-id": "mine"}}),
        ({"mode": "vote", "samples": 9}, {}),
        ({"mode": "judge", "samples": 3}, {}),
        ({"samples": 3}, {}),
    ],
)
async def test_what_cannot_be_meant_is_refused(
    live: Live, openai: AsyncOpenAI, fusion: dict[str, Any], more: dict[str, Any]
) -> None:
    async with live.node(arms=[CHAT], behaviour=by_seed(["x"] * 9)) as node:
        with pytest.raises(sdk.BadRequestError, match="samples"):
            await openai.chat.completions.create(
                model="auto", messages=HELLO, seed=7, extra_body={"fusion": fusion}, **more
            )
        assert node.seen.works == []


@pytest.mark.parametrize(
    ("answers", "missing", "known"),
    [
        ([], 3, False),
        (["a"], 0, True),
        (["a", "a"], 1, True),
        (["a", "a"], 2, False),
        (["a", "b", "a"], 1, False),
        (["a", "b", "a", "a"], 1, True),
    ],
)
def test_a_vote_is_settled_where_nobody_missing_could_change_it(answers: list[str], missing: int, known: bool) -> None:
    assert settled(answers, missing) is known
