"""Agents that are asked to sleep: only where their operator allowed it, after what runs, and back again."""

from __future__ import annotations

import asyncio
import random
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from edgewise.v1 import fleet_pb2 as fleet
from nodes.agent.agent import Agent
from nodes.agent.parts import Parts
from nodes.agent.sleep import Suspender, card_address, offer_of, send_magic_packet
from nodes.arms import Inventory
from nodes.config import NodeConfig, parse_config
from nodes.energy.discovery import EnergySource
from nodes.energy.meters.modelled import ModelledMeter
from nodes.errors import ConfigError
from tests.fakes.energy.worlds import profile
from tests.fakes.sleeper import MAC, magic
from tests.nodes.agent.engines import FakeEngine
from tests.nodes.agent.gateway import PlayedGateway, tensor_work
from tests.nodes.conftest import digit

ORDER = fleet.NodeCommand(suspend=fleet.Suspend(reason="quiet hours"))


@pytest.fixture
async def gateway() -> AsyncIterator[PlayedGateway]:
    gateway = PlayedGateway()
    await gateway.start()
    yield gateway
    await gateway.stop()


def settings(gateway: str = "127.0.0.1:1", **given: Any) -> NodeConfig:
    known = {"gateway": gateway, "name": "n1", "profiling_s": 0.05, "suspend_settle_s": 0.0}
    allowed = {"allow_suspend": True, "wake_mac": MAC, "idle_w": 20.0, "suspend_command": f"{sys.executable} -c pass"}
    return parse_config(known | allowed | given)


@asynccontextmanager
async def running(
    gateway: PlayedGateway, inventory: Inventory, **given: Any
) -> AsyncIterator[tuple[FakeEngine, Agent, asyncio.Task[None]]]:
    engine = FakeEngine()
    parts = Parts(engine, EnergySource(ModelledMeter(profile()), "test device", True, "test"), inventory)
    agent = Agent(settings(gateway.target, **given), parts, rng=random.Random(0))
    await agent.prepare()
    task = asyncio.create_task(agent.run())
    try:
        yield engine, agent, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await agent.close()


async def test_it_finishes_says_that_it_sleeps_runs_the_command_and_joins_again(
    gateway: PlayedGateway, inventory: Inventory, tmp_path: Path
) -> None:
    command = f"touch {tmp_path / 'asleep'}"
    async with running(gateway, inventory, suspend_command=command) as (engine, _agent, task):
        session = await gateway.session()
        hello = await session.next("hello")
        assert (hello.sleep.mac, hello.sleep.idle_w, hello.relays_wake) == (MAC, 20.0, False)
        session.welcome()
        session.send(tensor_work(1, digit(1), expert="slow"))
        await session.next("heartbeat")
        session.send(ORDER)
        assert (await session.next("draining")).reason == "quiet hours"
        engine.gate.set()
        # What runs is finished first, and nothing follows the last event.
        assert (await session.next("done", "sleeping")).work_id == 1
        await session.next("sleeping")
        assert not (tmp_path / "asleep").exists()
        session.end()
        again = await gateway.session()
        await again.next("hello")
        assert (tmp_path / "asleep").exists()
        assert not task.done()


async def test_without_leave_the_order_is_not_followed(
    gateway: PlayedGateway, inventory: Inventory, tmp_path: Path
) -> None:
    command = f"touch {tmp_path / 'asleep'}"
    async with running(gateway, inventory, allow_suspend=False, suspend_command=command):
        session = await gateway.session()
        assert not (await session.next("hello")).HasField("sleep")
        session.welcome()
        await session.next("heartbeat")
        session.send(ORDER)
        session.send(tensor_work(1, digit(1)))
        assert (await session.next("done", "draining", "sleeping")).work_id == 1
        assert not (tmp_path / "asleep").exists()


@pytest.mark.parametrize("command", [f'{sys.executable} -c "raise SystemExit(3)"', "/no/such/command"])
async def test_a_command_that_fails_leaves_the_node_in_service(
    gateway: PlayedGateway, inventory: Inventory, command: str
) -> None:
    async with running(gateway, inventory, suspend_command=command, suspend_settle_s=60.0):
        session = await gateway.session()
        session.welcome()
        await session.next("heartbeat")
        session.send(ORDER)
        await session.next("sleeping")
        session.end()
        await (await gateway.session()).next("hello")


async def test_an_agent_that_leaves_does_not_wait_for_the_machine(gateway: PlayedGateway, inventory: Inventory) -> None:
    command = f'{sys.executable} -c "import time; time.sleep(60)"'
    async with running(gateway, inventory, suspend_command=command) as (_engine, agent, task):
        session = await gateway.session()
        session.welcome()
        await session.next("heartbeat")
        session.send(ORDER)
        await session.next("sleeping")
        session.end()
        await asyncio.sleep(0.1)
        agent.drain("stop")
        async with asyncio.timeout(3):
            await task


async def test_a_command_that_returns_at_once_gets_time_to_take_effect() -> None:
    leaving, loop = asyncio.Event(), asyncio.get_running_loop()
    started_s = loop.time()
    await Suspender((sys.executable, "-c", "pass"), settle_s=0.3).suspend(leaving)
    assert loop.time() - started_s >= 0.3


async def test_packets_are_relayed_where_that_is_allowed(gateway: PlayedGateway, inventory: Inventory) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as card:
        card.bind(("127.0.0.1", 0))
        card.settimeout(3.0)
        address = f"127.0.0.1:{card.getsockname()[1]}"
        order = fleet.NodeCommand(wake_peer=fleet.WakePeer(mac=MAC, wake_address=address))
        for relay in (True, False):
            async with running(gateway, inventory, relay_wake=relay):
                session = await gateway.session()
                assert (await session.next("hello")).relays_wake == relay
                session.welcome()
                await session.next("heartbeat")
                session.send(order)
                session.send(tensor_work(1, digit(1)))
                await session.next("done")
        assert await asyncio.to_thread(card.recv, 2048) == magic(MAC)
        card.setblocking(False)
        with pytest.raises(BlockingIOError):
            card.recv(2048)


@pytest.mark.parametrize(
    ("mac", "address", "told"),
    [
        ("nonsense", "127.0.0.1:9", "order to wake is not valid"),
        (MAC, "127.0.0.1", "order to wake is not valid"),
        (MAC, "127.0.0.1:70000", "magic packet not sent"),
    ],
)
def test_a_bad_order_to_relay_is_told_and_left(mac: str, address: str, told: str) -> None:
    with structlog.testing.capture_logs() as lines:
        send_magic_packet(mac, address)
    assert [line["event"] for line in lines] == [told]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"idle_w": None}, "--idle-w"),
        ({"sleep_w": 30.0}, "--sleep-w"),
        ({"wake_mac": "nonsense"}, "--wake-mac"),
    ],
)
def test_what_is_not_known_is_asked_for(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        offer_of(settings(**given), None)
    assert offer_of(settings(allow_suspend=False, **given), None) is None


def test_falling_asleep_takes_the_idle_watts_unless_told() -> None:
    cases: list[tuple[dict[str, Any], tuple[float, float]]] = [
        ({}, (5.0, 41.0)),
        ({"suspend_s": 8.0, "suspend_w": 55.0}, (8.0, 55.0)),
    ]
    for given, falling in cases:
        offer = offer_of(settings(idle_w=41.0, wake_mac=MAC, **given), None)
        assert offer is not None
        assert (offer.suspend_s, offer.suspend_w) == falling


def test_the_card_of_the_default_route(tmp_path: Path) -> None:
    routes, cards = tmp_path / "route", tmp_path / "net"
    routes.write_text("Iface\tDestination\nlo\t0000007F\neth1\t00000000\n")
    (cards / "eth1").mkdir(parents=True)
    (cards / "eth1" / "address").write_text("AA:BB:CC:00:11:22\n")
    assert card_address(routes, cards) == "aa:bb:cc:00:11:22"
    with pytest.raises(ConfigError, match="--wake-mac"):
        card_address(tmp_path / "absent", cards)
