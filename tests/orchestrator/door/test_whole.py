"""Texts that nobody reads before their end have a way of their own through the gateway: it ends as the other does."""

from __future__ import annotations

import time
from typing import Any

import openai as sdk
import pytest
from openai import AsyncOpenAI

from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import fails, silent, speaks, vanishes
from tests.fakes.live import Live, until

CHEAP = FakeArm("speaker", task="chat", energy_j=0.1)
DEAR = FakeArm("speaker", task="chat", energy_j=0.9)
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


def outcome_of(live: Live, request_id: str) -> str:
    return live.gateway.service.journal.get(request_id).outcome


@pytest.mark.parametrize("bad", [fails("ENGINE_DIED"), vanishes()], ids=["fails", "vanishes"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_goes_to_another_arm(live: Live, openai: AsyncOpenAI, bad: Any, stream: bool) -> None:
    async with live.node(name="good", arms=[DEAR], behaviour=speaks("fine")):
        node = live.node(name="bad", arms=[CHEAP], behaviour=bad)
        await node.join()
        reply: Any = await openai.chat.completions.create(model="auto", messages=HELLO, stream=stream)
        if stream:
            chunks = [chunk async for chunk in reply]
            text, told = "".join(chunk.choices[0].delta.content or "" for chunk in chunks), chunks[-1].model_extra
        else:
            text, told = reply.choices[0].message.content, reply.model_extra
        await node.vanish()
    assert text == "fine"
    assert [attempt["outcome"] for attempt in told["routing"]["attempts"]] == ["failed", "answered"]
    assert told["energy"]["energy_joules"] == pytest.approx(1.0)


@pytest.mark.parametrize("stream", [False, True])
async def test_when_every_arm_fails_it_is_said_once_and_written_down(
    live: Live, openai: AsyncOpenAI, stream: bool
) -> None:
    asked = {"x-edgewise-request-id": "r1"}
    async with live.node(arms=[CHEAP], behaviour=fails()):
        with pytest.raises(sdk.InternalServerError) as caught:
            await openai.chat.completions.create(model="auto", messages=HELLO, stream=stream, extra_headers=asked)
    assert caught.value.code == "attempts_failed"
    assert outcome_of(live, "r1") == "ATTEMPTS_FAILED"
    assert live.gateway.service.admission.running == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_final_failure_is_not_tried_elsewhere(live: Live, openai: AsyncOpenAI, stream: bool) -> None:
    async with (
        live.node(name="good", arms=[DEAR], behaviour=speaks("fine")) as good,
        live.node(name="bad", arms=[CHEAP], behaviour=fails("INPUT_INVALID", final=True)),
    ):
        with pytest.raises(sdk.BadRequestError, match="same call will fail again"):
            await openai.chat.completions.create(model="auto", messages=HELLO, stream=stream)
        assert good.seen.works == []


async def test_an_arm_that_says_nothing_is_given_up_at_the_deadline(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[CHEAP], behaviour=silent()) as node:
        started_s = time.monotonic()
        with pytest.raises(sdk.InternalServerError) as caught:
            await openai.chat.completions.create(
                model="auto", messages=HELLO, extra_headers={"x-edgewise-request-id": "r1"}, extra_body=within_ms(300)
            )
        assert time.monotonic() - started_s <= 2.0
        assert caught.value.code == "deadline_exceeded"
        await node.cancelled((await node.received(1)).work_id)
    assert outcome_of(live, "r1") == "DEADLINE_EXCEEDED"
    await until(lambda: live.gateway.service.admission.running == 0)


def within_ms(latency_ms: float) -> dict[str, Any]:
    return {"budget": {"max_latency_ms": latency_ms, "on_infeasible": "best_effort"}}


async def test_whole_and_in_pieces_tell_the_same(live: Live, openai: AsyncOpenAI) -> None:
    async with live.node(arms=[CHEAP], behaviour=speaks("Hel", "lo")):
        whole: Any = await openai.chat.completions.create(model="auto", messages=HELLO)
        stream: Any = await openai.chat.completions.create(model="auto", messages=HELLO, stream=True)
        chunks = [chunk async for chunk in stream]
    assert whole.choices[0].message.content == "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert whole.choices[0].finish_reason == chunks[-1].choices[0].finish_reason
    one, other = whole.model_extra, chunks[-1].model_extra
    for name in ("experts", "fusion", "budget_met", "plan", "certificate", "stopped_by"):
        assert one["routing"][name] == other["routing"][name]
    assert one["energy"]["energy_joules"] == other["energy"]["energy_joules"] == pytest.approx(0.1)
