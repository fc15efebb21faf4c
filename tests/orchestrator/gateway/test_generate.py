"""Text from client to node and back, token by token."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from edgewise.v1 import common_pb2
from orchestrator.client import AsyncClient, Generated, GenerationParameters, Message, TextDelta
from orchestrator.errors import DeadlineExceeded, Unavailable
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import fails, silent, speaks, vanishes
from tests.fakes.live import Live, until
from tests.orchestrator.gateway.calls import chat, generate, refusal

CHEAP = FakeArm("speaker", task="chat", energy_j=0.1)
DEAR = FakeArm("speaker", task="chat", energy_j=0.9)
HELLO = [Message("user", "hello")]


@contextlib.asynccontextmanager
async def one_client(live: Live) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(live.address) as client:
        yield client


async def said(stream: AsyncIterator[TextDelta | Generated]) -> list[str]:
    """The pieces, then the whole."""
    return [event.text async for event in stream]


async def test_pieces_arrive_as_they_are_made_and_the_end_tells_the_cost(live: Live) -> None:
    async with live.node(arms=[CHEAP], behaviour=speaks("Hel", "lo", "!")) as node, one_client(live) as client:
        parameters = GenerationParameters(max_tokens=9, temperature=0.5, top_p=0.9, seed=4, stop=("\n",))
        events = [e async for e in client.generate(HELLO, parameters=parameters, request_id="r1")]
        assert [event.text for event in events[:-1]] == ["Hel", "lo", "!"]
        assert [event.token_ids for event in events[:-1] if isinstance(event, TextDelta)] == [(0,), (1,), (2,)]
        end = events[-1]
        assert isinstance(end, Generated)
        assert (end.text, end.finish_reason, end.completion_tokens) == ("Hello!", "stop", 3)
        assert end.energy.energy_j == pytest.approx(0.1)
        assert [attempt.arm for attempt in end.routing.attempts] == ["speaker:v1@fake-1"]
        asked = node.seen.works[0].text
        assert (asked.messages[0].role, asked.messages[0].content) == ("user", "hello")
        sent = asked.parameters
        assert (sent.max_tokens, sent.seed, list(sent.stop)) == (9, 4, ["\n"])
        assert (sent.temperature, sent.top_p) == (0.5, 0.9)
        assert (await client.explain("r1")).outcome == "answered"


async def test_what_is_not_said_is_left_to_the_engine(live: Live) -> None:
    async with live.node(arms=[CHEAP], behaviour=speaks("x")) as node:
        await generate(live, chat())
        sent = node.seen.works[0].text.parameters
        assert sent.max_tokens > 0
        assert not any(sent.HasField(name) for name in ("temperature", "top_p", "seed"))


async def test_the_first_piece_does_not_wait_for_the_last(live: Live) -> None:
    go = asyncio.Event()

    async def behave(turn: Any) -> None:
        turn.say("first")
        await go.wait()
        turn.done(text="first", finish_reason=common_pb2.FINISH_REASON_LENGTH)

    async with live.node(arms=[CHEAP], behaviour=behave), one_client(live) as client:
        stream = client.generate(HELLO)
        assert (await asyncio.wait_for(anext(stream), 2)).text == "first"
        go.set()
        end = await anext(stream)
        assert isinstance(end, Generated)
        assert end.finish_reason == "length"


async def test_joules_are_told_in_the_trailer(live: Live) -> None:
    async with live.node(arms=[CHEAP], behaviour=speaks("x")):
        stub: Any = live.stub
        call = stub.Generate(chat(), timeout=5)
        events = [event async for event in call]
        assert events[-1].done.energy.energy_j == pytest.approx(0.1)
        assert dict(await call.trailing_metadata())["x-energy-joules"] == "0.1"


async def test_two_streams_do_not_mix(live: Live) -> None:
    async def echo(turn: Any) -> None:
        for letter in turn.work.text.messages[0].content:
            turn.say(letter)
            await asyncio.sleep(0)
        turn.done(text=turn.work.text.messages[0].content)

    async with live.node(arms=[CHEAP], behaviour=echo), one_client(live) as client:
        texts = [f"text number {number}" for number in range(20)]
        streams = [client.generate([Message("user", text)], timeout_s=20) for text in texts]
        all_said = await asyncio.gather(*(said(stream) for stream in streams))
        assert ["".join(pieces[:-1]) for pieces in all_said] == texts


# ---- failures


@pytest.mark.parametrize("bad", [fails("ENGINE_DIED"), vanishes()], ids=["fails", "vanishes"])
async def test_a_failure_before_the_first_piece_goes_to_another_arm(live: Live, bad: Any) -> None:
    async with live.node(name="good", arms=[DEAR], behaviour=speaks("fine")):
        node = live.node(name="bad", arms=[CHEAP], behaviour=bad)
        await node.join()
        async with one_client(live) as client:
            events = [event async for event in client.generate(HELLO)]
        end = events[-1]
        assert isinstance(end, Generated)
        assert end.text == "fine"
        assert [attempt.outcome for attempt in end.routing.attempts] == ["failed", "answered"]
        assert end.energy.energy_j == pytest.approx(1.0)
        await node.vanish()


@pytest.mark.parametrize("bad", [fails("ENGINE_DIED"), vanishes()], ids=["fails", "vanishes"])
async def test_a_failure_after_the_first_piece_is_an_error(live: Live, bad: Any) -> None:
    async with live.node(name="good", arms=[DEAR], behaviour=speaks("fine")) as good:
        node = live.node(name="bad", arms=[CHEAP], behaviour=speaks("Hel", then=bad))
        await node.join()
        pieces = []

        async def collect() -> None:
            stub: Any = live.stub
            async for event in stub.Generate(chat(request_id="r1"), timeout=5):
                pieces.append(event.delta.text)

        found = await refusal(collect(), "ATTEMPTS_FAILED")
        assert found.metadata["requestId"] == "r1"
        assert pieces == ["Hel"]
        assert good.seen.works == []
        await node.vanish()


async def test_when_every_arm_fails_it_is_said_once(live: Live) -> None:
    async with live.node(arms=[CHEAP], behaviour=fails()), one_client(live) as client:
        with pytest.raises(Unavailable) as caught:
            await said(client.generate(HELLO))
        assert caught.value.reason == "ATTEMPTS_FAILED"


async def test_a_final_failure_is_not_tried_elsewhere(live: Live) -> None:
    async with (
        live.node(name="good", arms=[DEAR], behaviour=speaks("fine")) as good,
        live.node(name="bad", arms=[CHEAP], behaviour=fails("INPUT_INVALID", final=True)),
    ):
        await refusal(generate(live, chat()), "INPUT_INVALID")
        assert good.seen.works == []


async def test_an_arm_that_says_nothing_is_given_up_at_the_deadline(live: Live) -> None:
    """How long a first piece may take is the engine's business: only the deadline ends it."""
    async with live.node(arms=[CHEAP], behaviour=silent()) as node, one_client(live) as client:
        started_s = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await said(client.generate(HELLO, timeout_s=0.3))
        assert time.monotonic() - started_s <= 0.4
        await node.cancelled((await node.received(1)).work_id)


# ---- ends


@pytest.mark.parametrize("after_first_piece", [False, True])
async def test_a_client_that_goes_away_reaches_the_node_at_once(live: Live, after_first_piece: bool) -> None:
    behave = speaks("Hel", then=silent()) if after_first_piece else silent()
    async with live.node(arms=[CHEAP], behaviour=behave) as node:
        stub: Any = live.stub
        call = stub.Generate(chat(request_id="r1"), timeout=5)
        work = await node.received(1)
        if after_first_piece:
            await call.read()
        cancelled_s = time.monotonic()
        call.cancel()
        assert await node.cancelled(work.work_id) - cancelled_s <= 0.1
        service = live.gateway.service
        await until(lambda: service.admission.running == 0)
        assert service.fleet.board.nodes["fake-1"].pending == 0
        entry = service.journal.get("r1")
        assert entry.outcome == "CANCELLED"
        assert entry.energy.energy_j == pytest.approx(0.1)


async def test_a_client_that_stops_reading_in_the_middle_cancels(live: Live) -> None:
    async with live.node(arms=[CHEAP], behaviour=speaks("Hel", then=silent())) as node, one_client(live) as client:
        async for event in client.generate(HELLO):
            assert event.text == "Hel"
            break
        work = await node.received(1)
        await node.cancelled(work.work_id)


async def test_time_runs_out_in_the_middle(live: Live) -> None:
    async with live.node(arms=[CHEAP], behaviour=speaks("Hel", then=silent())) as node, one_client(live) as client:
        started_s = time.monotonic()
        stream = client.generate(HELLO, timeout_s=0.3)
        assert (await anext(stream)).text == "Hel"
        with pytest.raises(DeadlineExceeded):
            await anext(stream)
        assert time.monotonic() - started_s <= 0.4
        await node.cancelled((await node.received(1)).work_id)
        await until(lambda: live.gateway.service.admission.running == 0)


async def test_a_text_budget_that_nothing_fits(live: Live) -> None:
    async with live.node(arms=[CHEAP], behaviour=speaks("x")):
        request = chat(budget=common_pb2.Budget(max_energy_j=0.01))
        found = await refusal(generate(live, request), "BUDGET_INFEASIBLE")
        told = common_pb2.Budget(max_energy_j=float(found.metadata["minEnergyJ"]))
        events = await generate(live, chat(budget=told))
        assert events[-1].done.routing.budget_met


async def test_a_stream_ends_with_its_node(live: Live) -> None:
    node = live.node(arms=[CHEAP], behaviour=speaks("Hel", then=silent()))
    await node.join()
    stub: Any = live.stub
    call = stub.Generate(chat(), timeout=5)
    assert (await call.read()).delta.text == "Hel"
    await node.vanish()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
