"""Self-consistency over gRPC: the same as over HTTP (`tests/orchestrator/door/test_samples.py`), refusals included."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import openai as sdk
import pytest
from openai import AsyncOpenAI

from edgewise.v1 import common_pb2 as common
from orchestrator.client import AsyncClient, Client, FusionChoice, Generated, GenerationParameters, Message, TextDelta
from orchestrator.errors import RequestError
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import by_seed, speaks
from tests.fakes.live import Live
from tests.orchestrator.door.test_samples import HELLO
from tests.orchestrator.gateway.calls import chat, digit, generate, infer, refusal

CHAT = FakeArm("speaker", task="chat", energy_j=0.1)
ASKED = [Message("user", "hello")]
FROM_SEVEN = GenerationParameters(9, seed=7)
VOTE = common.FUSION_MODE_VOTE


async def test_the_answer_of_most_samples_comes_in_one_piece_with_the_bill_of_all(live: Live) -> None:
    async with (
        live.node(arms=[CHAT], behaviour=by_seed(["Rome", "Paris", "Rome", " Paris.", '"Paris"'])) as node,
        AsyncClient(live.address) as client,
    ):
        stream = client.generate(ASKED, parameters=FROM_SEVEN, fusion=FusionChoice.VOTE, samples=5)
        events = [event async for event in stream]
        assert sorted(work.text.parameters.seed for work in node.seen.works) == [7, 8, 9, 10, 11]
        assert all(work.text.parameters.temperature == pytest.approx(0.7) for work in node.seen.works)
    piece, end = events
    assert isinstance(piece, TextDelta)
    assert isinstance(end, Generated)
    assert (end.text, end.text.strip(' ".')) == (piece.text, "Paris")
    assert end.routing.fusion is FusionChoice.VOTE
    assert len(end.routing.attempts) == 5
    assert end.energy.energy_j == pytest.approx(0.5)


async def test_the_blocking_client_asks_the_same(live: Live) -> None:
    def ask() -> Generated:
        with Client(live.address) as client:
            *_, end = client.generate(ASKED, parameters=FROM_SEVEN, fusion=FusionChoice.VOTE, samples=3)
            assert isinstance(end, Generated)
            return end

    async with live.node(arms=[CHAT], behaviour=by_seed(["Rome", "Paris", "Paris"])):
        end = await asyncio.to_thread(ask)
    assert (end.text, len(end.routing.attempts)) == ("Paris", 3)


async def test_one_sample_is_a_question_like_any_other(live: Live) -> None:
    async with live.node(arms=[CHAT], behaviour=speaks("Pa", "ris")) as node:
        events = await generate(live, chat(request_id="mine", fusion=common.Fusion(samples=1)))
        assert [event.delta.text for event in events[:-1]] == ["Pa", "ris"]
        assert len(node.seen.works) == 1


async def test_samples_that_nobody_waits_for_any_more_are_cancelled(live: Live) -> None:
    behaviour = by_seed(["Paris"] * 5, slow=frozenset(range(5)))
    async with live.node(arms=[CHAT], behaviour=behaviour, concurrency=5) as node:
        request = chat(parameters=common.GenerationParameters(seed=7), fusion=common.Fusion(mode=VOTE, samples=5))
        stub: Any = live.stub
        call = stub.Generate(request, timeout=5)
        waiting = asyncio.ensure_future(call.read())
        await node.received(5)
        call.cancel()
        await asyncio.wait([waiting])
        for work in node.seen.works:
            await node.cancelled(work.work_id)


@pytest.mark.parametrize(
    ("mode", "samples", "more"),
    [
        ("vote", 3, {"temperature": 0.0}),
        ("vote", 3, {"request_id": "mine"}),
        ("vote", 9, {}),
        ("judge", 3, {}),
        ("auto", 3, {}),
    ],
    ids=["greedy", "own id", "too many", "judge", "no mode"],
)
async def test_what_cannot_be_meant_is_refused_in_the_words_of_http(
    live: Live, mode: str, samples: int, more: dict[str, Any]
) -> None:
    async with live.node(arms=[CHAT], behaviour=by_seed(["x"] * 9)) as node, AsyncClient(live.address) as client:
        parameters = GenerationParameters(9, seed=7, temperature=more.get("temperature"))
        own_id, fusion = more.get("request_id"), FusionChoice(mode)
        with pytest.raises(RequestError) as refused:
            async for _ in client.generate(
                ASKED, parameters=parameters, fusion=fusion, samples=samples, request_id=own_id
            ):
                pass
        said = await http_refusal(live, {"mode": mode, "samples": samples}, parameters.temperature, own_id)
        assert node.seen.works == []
    assert refused.value.reason == "FIELD_OUT_OF_RANGE"
    assert str(refused.value) == said


async def http_refusal(live: Live, fusion: dict[str, Any], temperature: float | None, own_id: str | None) -> str:
    """What the other door says to the same."""
    headers = {"x-edgewise-request-id": own_id} if own_id else {}
    body: dict[str, Any] = {"fusion": fusion} | ({} if temperature is None else {"temperature": temperature})
    async with AsyncOpenAI(base_url=f"{live.http}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(sdk.BadRequestError) as refused:
            await client.chat.completions.create(
                model="auto", messages=HELLO, seed=7, extra_headers=headers, extra_body=body
            )
    body_said: Any = refused.value.body
    return str(body_said["message"])


async def test_a_greedy_sample_names_the_field_as_grpc_knows_it(live: Live) -> None:
    async with live.node(arms=[CHAT], behaviour=speaks("x")):
        greedy = common.GenerationParameters(temperature=0.0)
        request = chat(parameters=greedy, fusion=common.Fusion(mode=VOTE, samples=2))
        assert (await refusal(generate(live, request), "FIELD_OUT_OF_RANGE")).field == "parameters.temperature"


async def test_tensors_have_no_samples(live: Live) -> None:
    async with live.node(behaviour=speaks("x")):
        with pytest.raises(grpc.aio.AioRpcError, match="texts alone"):
            await infer(live, digit(fusion=common.Fusion(mode=VOTE, samples=2)))
