"""One agent and two gateways: each has its own session, together they have one engine, one meter, one farewell."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from nodes.agent.agent import Agent
from nodes.agent.parts import Parts
from nodes.arms import Inventory
from nodes.config import parse_config
from nodes.energy.discovery import EnergySource
from nodes.energy.meters.modelled import ModelledMeter
from nodes.errors import ConfigError, SessionRejected
from tests.fakes.energy.worlds import profile
from tests.fakes.live import until
from tests.nodes.agent import gateway as played
from tests.nodes.agent.engines import FakeEngine
from tests.nodes.agent.gateway import PlayedGateway, PlayedSession, tensor_work
from tests.nodes.conftest import digit


@pytest.fixture
async def gateways() -> AsyncIterator[tuple[PlayedGateway, PlayedGateway]]:
    pair = PlayedGateway(), PlayedGateway()
    for gateway in pair:
        await gateway.start()
    yield pair
    for gateway in pair:
        await gateway.stop()


Pair = tuple[PlayedGateway, PlayedGateway]


@asynccontextmanager
async def serving(gateways: Pair, inventory: Inventory) -> AsyncIterator[tuple[Agent, asyncio.Task[None]]]:
    energy = EnergySource(ModelledMeter(profile()), "test device", True, "test")
    targets = ",".join(gateway.target for gateway in gateways)
    config = parse_config({"gateway": targets, "name": "n1", "profiling_s": 0.05, "concurrency": 1})
    agent = Agent(config, Parts(FakeEngine(), energy, inventory), rng=random.Random(0))
    await agent.prepare()
    task = asyncio.create_task(agent.run())
    try:
        yield agent, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await agent.close()


async def welcomed(gateway: PlayedGateway, epoch: int) -> PlayedSession:
    session = await gateway.session()
    hello = await session.next("hello")
    assert hello.node == "n1"
    session.welcome(epoch)
    await session.next("heartbeat")
    return session


async def test_each_gateway_gets_its_own_answers(gateways: Pair, inventory: Inventory) -> None:
    async with serving(gateways, inventory):
        first, second = [await welcomed(gateway, epoch) for epoch, gateway in enumerate(gateways, 7)]
        # The same number from both: works are counted by each gateway for itself.
        first.send(tensor_work(1, digit(3)))
        second.send(tensor_work(1, digit(5)))
        for session, epoch in ((first, 7), (second, 8)):
            message, done = await session.next_with_message("done")
            assert (message.epoch, done.work_id) == (epoch, 1)
            assert done.energy.energy_j > 0.0


async def test_together_they_get_no_more_slots_than_one(gateways: Pair, inventory: Inventory) -> None:
    """One slot and a queue of two: the fourth piece of work is refused, whoever sends it, to be tried elsewhere."""
    async with serving(gateways, inventory) as (agent, _):
        engine = agent.engine
        assert isinstance(engine, FakeEngine)
        first, second = [await welcomed(gateway, epoch) for epoch, gateway in enumerate(gateways, 7)]
        first.send(tensor_work(1, digit(1), expert="slow"), tensor_work(2, digit(2), expert="slow"))
        await until(lambda: engine.running + engine.queued == 2)
        second.send(tensor_work(1, digit(1), expert="slow"), tensor_work(2, digit(2), expert="slow"))
        failed = await second.next("failed")
        assert (failed.work_id, failed.reason, failed.final) == (2, "NODE_BUSY", False)
        assert engine.running == 1
        # Each is told how busy the node is, the other's work included.
        await until(lambda: engine.queued == 2)
        for session in (first, second):
            beat = await session.next("heartbeat")
            while beat.queued != 2:
                beat = await session.next("heartbeat")
            assert beat.running == 1
        engine.gate.set()
        assert {(await first.next("done")).work_id for _ in range(2)} == {1, 2}
        assert (await second.next("done")).work_id == 1


async def test_idle_joules_are_told_once(gateways: Pair, inventory: Inventory) -> None:
    async with serving(gateways, inventory) as (agent, _):
        sessions = [await welcomed(gateway, epoch) for epoch, gateway in enumerate(gateways, 7)]
        meter = agent._parts.energy.meter
        told = [0.0, 0.0]
        for total in range(1, 11):
            meter.idle_j = float(total)  # type: ignore[attr-defined]
            for number, session in enumerate(sessions):
                told[number] = (await session.next("heartbeat")).idle_energy_j
        for _ in range(3):
            for number, session in enumerate(sessions):
                told[number] = (await session.next("heartbeat")).idle_energy_j
        assert sum(told) == pytest.approx(10.0)


async def test_one_that_goes_away_is_dialled_again_and_the_other_is_served(
    gateways: Pair, inventory: Inventory
) -> None:
    async with serving(gateways, inventory):
        first, second = [await welcomed(gateway, epoch) for epoch, gateway in enumerate(gateways, 7)]
        first.end()
        second.send(tensor_work(1, digit(3)))
        assert (await second.next("done")).work_id == 1
        await welcomed(gateways[0], 9)


async def test_one_that_refuses_for_good_leaves_the_other(gateways: Pair, inventory: Inventory) -> None:
    async with serving(gateways, inventory) as (_, task):
        refusing = await gateways[0].session()
        await refusing.next("hello")
        refusing.send(played.rejected("PROTOCOL_MISMATCH", retryable=False))
        second = await welcomed(gateways[1], 8)
        second.send(tensor_work(1, digit(3)))
        await second.next("done")
        assert not task.done()


async def test_where_all_refuse_for_good_the_agent_ends(gateways: Pair, inventory: Inventory) -> None:
    async with serving(gateways, inventory) as (_, task):
        for gateway in gateways:
            session = await gateway.session()
            await session.next("hello")
            session.send(played.rejected("PROTOCOL_MISMATCH", retryable=False))
        with pytest.raises(SessionRejected):
            async with asyncio.timeout(5.0):
                await task


async def test_an_operator_drains_the_node_at_whichever_gateway(gateways: Pair, inventory: Inventory) -> None:
    async with serving(gateways, inventory) as (_, task):
        first, second = [await welcomed(gateway, epoch) for epoch, gateway in enumerate(gateways, 7)]
        first.send(played.drain("by hand"))
        for session in (first, second):
            await session.next("draining")
            async with asyncio.timeout(5.0):
                await session.half_closed.wait()
            session.end()
        async with asyncio.timeout(5.0):
            await task


@pytest.mark.parametrize("targets", ["a:1,", "a:1,b", ",a:1", "a:1,a:1", "a:1 ,b:70000"])
def test_a_bad_list_of_gateways_is_refused(targets: str) -> None:
    with pytest.raises(ConfigError, match="--gateway"):
        parse_config({"gateway": targets})


async def test_a_gateway_tells_of_its_replica(gateways: Pair, inventory: Inventory) -> None:
    energy = EnergySource(ModelledMeter(profile()), "test device", True, "test")
    config = parse_config({"gateway": gateways[0].target, "name": "n1", "profiling_s": 0.05})
    agent = Agent(config, Parts(FakeEngine(), energy, inventory), rng=random.Random(0))
    await agent.prepare()
    task = asyncio.create_task(agent.run())
    first = await gateways[0].session()
    await first.next("hello")
    # Itself, which is no news; nonsense, which is none; and the replica.
    first.welcome(gateways=(gateways[0].target, "nonsense", "", "h:99999", gateways[1].target))
    second = await welcomed(gateways[1], 8)
    second.send(tensor_work(1, digit(3)))
    await second.next("done")
    assert gateways[0].sessions.empty()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await agent.close()
