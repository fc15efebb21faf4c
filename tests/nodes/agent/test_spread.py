"""How long a node that loses its gateway waits, by what the gateway said."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator

import pytest

from edgewise.v1 import fleet_pb2 as fleet
from nodes.agent.agent import Agent
from nodes.agent.backoff import CAP_S, MOST_SPREAD_S, checked_spread_s, full_jitter_s
from nodes.agent.parts import Parts
from nodes.arms import Inventory
from nodes.config import parse_config
from nodes.energy.discovery import EnergySource
from nodes.energy.meters.modelled import ModelledMeter
from tests.fakes.energy.worlds import profile
from tests.nodes.agent.engines import FakeEngine
from tests.nodes.agent.gateway import PlayedGateway


class Dice(random.Random):
    """Says what it was asked, and has nobody wait."""

    def __init__(self) -> None:
        super().__init__(0)
        self.asked: list[float] = []

    def uniform(self, a: float, b: float) -> float:
        self.asked.append(b)
        return a


@pytest.fixture
async def gateway() -> AsyncIterator[PlayedGateway]:
    gateway = PlayedGateway()
    await gateway.start()
    yield gateway
    await gateway.stop()


def test_a_spread_widens_the_window_and_never_narrows_it() -> None:
    rng = random.Random(0)
    waits_s = [full_jitter_s(1, rng, spread_s=4.0) for _ in range(500)]
    assert min(waits_s) < 0.1
    assert 3.9 < max(waits_s) <= 4.0
    assert max(full_jitter_s(9, rng, spread_s=0.1) for _ in range(500)) > 0.9 * CAP_S


@pytest.mark.parametrize(
    ("told_s", "kept_s"), [(4.0, 4.0), (-1.0, 0.0), (math.nan, 0.0), (math.inf, 0.0), (1e9, MOST_SPREAD_S)]
)
def test_what_a_gateway_says_is_kept_within_reason(told_s: float, kept_s: float) -> None:
    assert checked_spread_s(told_s) == kept_s


async def test_a_node_comes_back_within_what_it_was_told_last(gateway: PlayedGateway, inventory: Inventory) -> None:
    dice = Dice()
    energy = EnergySource(ModelledMeter(profile()), "test device", True, "test")
    config = parse_config({"gateway": gateway.target, "name": "n1", "profiling_s": 0.05, "concurrency": 1})
    agent = Agent(config, Parts(FakeEngine(), energy, inventory), rng=dice)
    await agent.prepare()
    task = asyncio.create_task(agent.run())
    try:
        # Of one that says nothing it makes its own mind up, of one that goes without a welcome it keeps what it knew.
        for epoch, spread_s in enumerate((0.0, 20.0, None), 7):
            session = await gateway.session()
            await session.next("hello")
            if spread_s is not None:
                session.welcome(epoch, spread_s=spread_s)
                await session.next("heartbeat")
            session.end()
        session = await gateway.session()
        session.welcome(10, spread_s=20.0)
        session.send(fleet.NodeCommand(spread=fleet.Spread(seconds=10.0)))
        await session.next("heartbeat")
        session.end()
        await gateway.session()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await agent.close()
    assert dice.asked[0] == pytest.approx(0.4)
    assert dice.asked[1:] == [20.0, 20.0, 10.0]
