"""Nodes that sleep and are woken: by hand, because a request needs them, and by plan. No machine sleeps here."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.v1 import gateway_pb2 as gateway
from orchestrator.client import AsyncClient, Budget, Client, Message
from orchestrator.config import Auth, Sleep
from orchestrator.errors import BudgetInfeasible, RequestError, Unavailable
from orchestrator.sleep import keeper as keeper_module
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import answers, speaks
from tests.fakes.live import Live, live_gateway, until
from tests.fakes.node import JoinRefused
from tests.fakes.ports import free_address
from tests.fakes.sleeper import MAC, FakeSleeper, magic
from tests.fakes.turn import Behaviour, Turn
from tests.orchestrator.gateway.calls import chat, digit, refusal
from tests.orchestrator.gateway.test_accounts import key

DIGIT = np.zeros((1, 8, 8), dtype=np.float32)
PATIENT, HASTY = Budget(max_latency_ms=4000.0), Budget(max_latency_ms=150.0)
ARM = FakeArm("small", p50_ms=1.0, p95_ms=2.0)
# What one joule buys is so dear that idling never pays.
FRUGAL = Sleep(enabled=True, price_per_j=1.0, check_s=0.1, min_awake_s=0.0, min_asleep_s=0.0)


async def asleep(client: AsyncClient, live: Live, sleeper: FakeSleeper) -> None:
    """Put it to sleep, and wait until it does."""
    assert await client.sleep_node("sleeper") == "draining"
    await until(lambda: live.gateway.service.fleet.state("sleeper").value == "asleep" and sleeper.naps)


def answers_both(label: int, text: str) -> Behaviour:
    """Tensors with a label, texts with a text."""
    tensors, texts = answers(label), speaks(text)

    async def behave(turn: Turn) -> None:
        await (texts if turn.arm.task == "chat" else tensors)(turn)

    return behave


async def reply_to(live: Live, request: Any, metadata: Any = ()) -> Any:
    """The last message of what a gateway answers."""
    stub: Any = live.stub
    if isinstance(request, gateway.InferRequest):
        return await stub.Infer(request, timeout=5, metadata=metadata)
    return [event async for event in stub.Generate(request, timeout=5, metadata=metadata)][-1].done


async def state(client: AsyncClient, node: str = "sleeper") -> str:
    return {entry.node: entry.state for entry in (await client.status()).nodes}[node]


async def test_by_hand_to_sleep_and_back(tmp_path: Path) -> None:
    async with (
        live_gateway(tmp_path) as live,
        FakeSleeper(live.address, behaviour=answers(7)) as sleeper,
        AsyncClient(live.address) as client,
    ):
        await client.infer(DIGIT)
        await asleep(client, live, sleeper)
        (node,) = (await client.status()).nodes
        # Not lost: it keeps its arms, and nothing counts against them.
        assert (node.state, [arm.failed for arm in node.arms]) == ("asleep", [0])
        assert node.asleep_s is not None
        assert not sleeper.packets
        assert await client.wake_node("sleeper") == "waking"
        await until(lambda: live.gateway.service.fleet.state("sleeper").value == "healthy")
        assert sleeper.packets[0] == magic(MAC)
        assert (await client.infer(DIGIT)).label == "7"
        assert await state(client) == "healthy"


async def test_the_books_have_what_sleeping_and_waking_took(tmp_path: Path) -> None:
    async with (
        live_gateway(tmp_path) as live,
        FakeSleeper(live.address, behaviour=answers(7)) as sleeper,
        AsyncClient(live.address) as client,
    ):
        await asleep(client, live, sleeper)
        await client.wake_node("sleeper")
        await until(lambda: live.gateway.service.fleet.state("sleeper").value == "healthy")
        with Client(live.address) as books:
            rows = await asyncio.to_thread(lambda: [*books.settlements(60.0)])
    (row,) = [row for row in rows if row.arms == "wake@sleeper"]
    assert (row.outcome, row.provenance) == ("idle", "modelled")
    # 50 J of waking, and 1 W for well under two seconds.
    assert 50.0 < row.energy_j < 52.0


async def test_a_request_with_time_wakes_the_node_that_it_needs(tmp_path: Path) -> None:
    async with (
        live_gateway(tmp_path) as live,
        FakeSleeper(live.address, behaviour=answers(7), boot_s=0.3, wake_s=0.5) as sleeper,
        AsyncClient(live.address) as client,
    ):
        await asleep(client, live, sleeper)
        answer = await client.infer(DIGIT, budget=PATIENT)
        assert answer.label == "7"
        assert answer.routing.budget_met
        # The request waited for the boot, and its time counts from its arrival.
        assert answer.timing.total_ms > 300.0
        assert sleeper.packets


async def test_who_falls_asleep_again_at_once_is_not_called_by_the_wake_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "RESEND_S", 0.3)
    async with (
        live_gateway(tmp_path) as live,
        FakeSleeper(live.address, behaviour=answers(7)) as sleeper,
        AsyncClient(live.address) as client,
    ):
        await asleep(client, live, sleeper)
        await client.wake_node("sleeper")
        await until(lambda: live.gateway.service.fleet.state("sleeper").value == "healthy")
        await client.sleep_node("sleeper")
        await until(lambda: sleeper.naps == 2)
        await asyncio.sleep(0.6)
        assert await state(client) == "asleep"


async def test_a_text_wakes_too(tmp_path: Path) -> None:
    async with (
        live_gateway(tmp_path) as live,
        FakeSleeper(live.address, arms=[FakeArm("speaker", task="chat")], behaviour=speaks("meow")) as sleeper,
        AsyncClient(live.address) as client,
    ):
        await asleep(client, live, sleeper)
        async for _ in client.generate([Message("user", "hello")], request_id="r"):
            pass
        assert (await client.explain("r")).outcome == "answered"
        assert sleeper.packets


async def test_a_request_without_time_is_told_how_much_it_needs_and_wakes_nobody(tmp_path: Path) -> None:
    async with (
        live_gateway(tmp_path) as live,
        FakeSleeper(live.address, behaviour=answers(7), wake_s=1.5) as sleeper,
        AsyncClient(live.address) as client,
    ):
        await asleep(client, live, sleeper)
        with pytest.raises(BudgetInfeasible) as refused:
            await client.infer(DIGIT, budget=HASTY)
        assert 1500.0 < float(refused.value.metadata["minLatencyMs"]) < 1600.0
        assert await state(client) == "asleep"
        # With what it was told it is served.
        enough = Budget(max_latency_ms=float(refused.value.metadata["minLatencyMs"]) + 500.0)
        assert (await client.infer(DIGIT, budget=enough)).label == "7"


async def test_where_those_awake_are_too_dear_one_that_sleeps_is_woken(tmp_path: Path) -> None:
    async with (
        live_gateway(tmp_path) as live,
        FakeSleeper(live.address, behaviour=answers(7)) as sleeper,
        live.node(name="dear", arms=[FakeArm("large", energy_j=100.0)], behaviour=answers(3)),
        AsyncClient(live.address) as client,
    ):
        await asleep(client, live, sleeper)
        frugal = Budget(max_energy_j=1.0, max_latency_ms=4000.0)
        assert (await client.infer(DIGIT, budget=frugal)).label == "7"
        # What no node can do for its joules, asleep or awake, is refused as ever.
        with pytest.raises(BudgetInfeasible):
            await client.infer(DIGIT, budget=Budget(max_energy_j=1e-6, max_latency_ms=4000.0))


@pytest.mark.parametrize("on_demand", [True, False], ids=["woken", "control"])
async def test_a_query_that_may_run_on_a_sleeper_alone_wakes_it(tmp_path: Path, on_demand: bool) -> None:
    writers = [FakeArm("writer", task="chat", tags=("private",))]
    bound = Auth.model_validate({"placement": {"tenant:acme": {"allowed_nodes": ["sleeper"]}}})
    async with (
        live_gateway(tmp_path, auth=bound, sleep=Sleep(on_demand=on_demand)) as live,
        FakeSleeper(live.address, arms=[ARM, *writers], behaviour=answers_both(7, "here")) as sleeper,
        live.node(name="awake", arms=[ARM, FakeArm("writer", task="chat")], behaviour=answers_both(3, "there")),
        AsyncClient(live.address) as client,
    ):
        acme = await key(live, "acme")
        placed: list[tuple[gateway.InferRequest | gateway.GenerateRequest, Any]] = [
            (digit(allowed_nodes=["sleeper"]), ()),
            (digit(), acme),
            (chat(allowed_nodes=["sleeper"]), ()),
            (chat(required_tags=["private"]), ()),
            (chat(), acme),
        ]
        for request, metadata in placed:
            request.budget.max_latency_ms = 4000.0
            if live.gateway.service.fleet.state("sleeper").value != "asleep":
                await asleep(client, live, sleeper)
            if not on_demand:
                await refusal(reply_to(live, request, metadata), "CAPABILITY_MISSING")
                continue
            done = await reply_to(live, request, metadata)
            assert [attempt.arm.rpartition("@")[2] for attempt in done.routing.attempts] == ["sleeper"]
        assert bool(sleeper.packets) == on_demand


async def test_a_query_for_nodes_that_nobody_has_wakes_nobody(tmp_path: Path) -> None:
    async with (
        live_gateway(tmp_path) as live,
        FakeSleeper(live.address, arms=[ARM], behaviour=answers(7)) as sleeper,
        live.node(name="awake", arms=[ARM], behaviour=answers(3)),
        AsyncClient(live.address) as client,
    ):
        await asleep(client, live, sleeper)
        await refusal(reply_to(live, digit(allowed_nodes=["nowhere"])), "CAPABILITY_MISSING")
        assert not sleeper.packets


async def test_where_somebody_else_is_awake_nobody_is_woken(tmp_path: Path) -> None:
    async with (
        live_gateway(tmp_path) as live,
        FakeSleeper(live.address, behaviour=answers(7)) as sleeper,
        live.node(name="awake", arms=[ARM], behaviour=answers(3)),
        AsyncClient(live.address) as client,
    ):
        await asleep(client, live, sleeper)
        assert (await client.infer(DIGIT, budget=PATIENT)).label == "3"
        assert (await client.infer(DIGIT, budget=HASTY)).label == "3"
        assert not sleeper.packets


async def test_control_without_waking_on_demand_the_request_fails_at_once(tmp_path: Path) -> None:
    async with (
        live_gateway(tmp_path, sleep=Sleep(on_demand=False)) as live,
        FakeSleeper(live.address, behaviour=answers(7)) as sleeper,
        AsyncClient(live.address) as client,
    ):
        await asleep(client, live, sleeper)
        started_s = time.monotonic()
        with pytest.raises(Unavailable) as refused:
            await client.infer(DIGIT, budget=PATIENT)
        assert refused.value.reason == "NO_NODE"
        assert time.monotonic() - started_s < 1.0
        assert not sleeper.packets


async def test_control_a_node_that_does_not_wake_fails_the_request_within_its_time(tmp_path: Path) -> None:
    async with (
        live_gateway(tmp_path) as live,
        FakeSleeper(live.address, behaviour=answers(7), deaf=True) as sleeper,
        AsyncClient(live.address) as client,
    ):
        await asleep(client, live, sleeper)
        started_s = time.monotonic()
        with pytest.raises(Unavailable) as refused:
            await client.infer(DIGIT, budget=Budget(max_latency_ms=700.0))
        assert refused.value.reason == "NO_NODE"
        assert time.monotonic() - started_s < 0.9
        assert sleeper.packets


async def test_a_neighbour_relays_the_packet(tmp_path: Path) -> None:
    async with (
        live_gateway(tmp_path) as live,
        FakeSleeper(live.address, behaviour=answers(7)) as sleeper,
        live.node(name="relay", arms=[ARM], behaviour=answers(3), relays_wake=True) as relay,
        live.node(name="quiet", arms=[ARM], behaviour=answers(3)) as quiet,
        AsyncClient(live.address) as client,
    ):
        await asleep(client, live, sleeper)
        address = sleeper.wake_address
        await client.wake_node("sleeper")
        await until(lambda: relay.seen.peers)
        assert (relay.seen.peers[0].mac, relay.seen.peers[0].wake_address) == (MAC, address)
        assert not quiet.seen.peers


async def test_a_configured_command_wakes_too(tmp_path: Path) -> None:
    called = tmp_path / "called"
    async with (
        live_gateway(tmp_path / "state", sleep=Sleep(wake_commands={"sleeper": f"touch {called}"})) as live,
        FakeSleeper(live.address, behaviour=answers(7), mac="") as sleeper,
        AsyncClient(live.address) as client,
    ):
        await asleep(client, live, sleeper)
        await client.wake_node("sleeper")
        await until(called.exists)
        # Without an address no packet is sent.
        assert not sleeper.packets


async def test_a_gateway_that_is_started_again_still_knows_who_sleeps(tmp_path: Path) -> None:
    address = free_address()
    async with live_gateway(tmp_path, listen=address) as live, AsyncClient(address) as client:
        sleeper = await FakeSleeper(address, behaviour=answers(7)).__aenter__()
        await asleep(client, live, sleeper)
    try:
        async with live_gateway(tmp_path, listen=address) as live, AsyncClient(address) as client:
            (node,) = (await client.status()).nodes
            assert (node.state, [arm.expert for arm in node.arms]) == ("asleep", ["small"])
            assert (await client.infer(DIGIT, budget=PATIENT)).label == "7"
            await sleeper.__aexit__(None, None, None)
        # Who is awake again is forgotten as a sleeper.
        async with live_gateway(tmp_path, listen=address) as live, AsyncClient(address) as client:
            assert (await client.status()).nodes == ()
    finally:
        await sleeper.__aexit__(None, None, None)


@pytest.mark.parametrize("content", ["no json", "[1]", '{"n": {"hello": "AAAA", "asleep_unix_s": 1}}', '{"n": 3}'])
async def test_a_register_that_cannot_be_read_stops_nobody(tmp_path: Path, content: str) -> None:
    await asyncio.to_thread((tmp_path / "asleep.json").write_text, content)
    async with (
        live_gateway(tmp_path) as live,
        live.node(arms=[ARM], behaviour=answers(3)),
        AsyncClient(live.address) as client,
    ):
        assert (await client.infer(DIGIT)).label == "3"


async def test_what_may_not_sleep_does_not(tmp_path: Path) -> None:
    async with (
        live_gateway(tmp_path) as live,
        live.node(arms=[ARM], behaviour=answers(3)) as node,
        AsyncClient(live.address) as client,
    ):
        with pytest.raises(RequestError, match="--allow-suspend") as refused:
            await client.sleep_node("fake-1")
        assert refused.value.reason == "SLEEP_OFF"
        with pytest.raises(RequestError, match="No node of this name"):
            await client.wake_node("nobody")
        assert not node.seen.suspended.is_set()
        assert await state(client, "fake-1") == "healthy"


@pytest.mark.parametrize(
    ("offer", "named"),
    [
        ({"mac": "02:00"}, "sleep.mac"),
        ({"wake_address": "router:9"}, "IP:PORT"),
        ({"wake_s": -1.0}, "wake_s"),
        ({"suspend_s": -1.0}, "suspend_s"),
        ({"suspend_w": float("nan")}, "suspend_w"),
    ],
)
async def test_an_offer_that_cannot_be_meant_is_refused(tmp_path: Path, offer: dict[str, Any], named: str) -> None:
    async with live_gateway(tmp_path) as live:
        with pytest.raises(JoinRefused, match=named):
            async with FakeSleeper(live.address, behaviour=answers(7), **offer):
                pass
