"""A sample of every fault with fixed seeds: one fleet of real processes, ten repeats in all.

The tests share the fleet and run in the order in which they stand: those without retries replace the gateway, last.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fakes.processes import Fleet
from tests.faults.bars import missed, missed_restart
from tests.faults.campaign import CONTROLS, FAULTS, control_missed, describe, repeated, restarted, without_retries
from tests.faults.scenarios import NODES, warm_up

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        yield fleet.start(*NODES)


@pytest.fixture(scope="module")
def fleet_without_retries(fleet: Fleet) -> Fleet:
    without_retries(fleet)
    return fleet


@pytest.mark.parametrize("name", ["kill_node", "stop_node", "kill_engine"])
async def test_requests_survive(fleet: Fleet, name: str) -> None:
    await warm_up(fleet)
    outcome = await repeated(fleet, name, FAULTS[name], repeats=1)
    assert missed(name, outcome) == [], describe(outcome)


async def test_agents_come_back_to_a_gateway_that_was_killed(fleet: Fleet) -> None:
    assert missed_restart(await restarted(fleet, repeats=1)) == []


@pytest.mark.parametrize("name", CONTROLS)
async def test_control_without_retries_the_same_check_fails(fleet_without_retries: Fleet, name: str) -> None:
    outcome = await repeated(fleet_without_retries, f"control_{name}", CONTROLS[name], repeats=1)
    assert control_missed(name, outcome) == [], describe(outcome)


def test_nothing_outlives_a_fleet(tmp_path: Path) -> None:
    with Fleet(tmp_path) as fleet:
        fleet.start(NODES[0])
        processes = [
            process for running in (fleet.agents["north"], fleet.gateway) if running for process in running.children()
        ]
        assert len(processes) >= 2
    gone, alive = psutil.wait_procs(processes, timeout=5.0)
    assert (len(gone), alive) == (len(processes), [])


def test_a_fleet_also_ends_what_was_stopped_or_has_lost_its_leader(tmp_path: Path) -> None:
    with Fleet(tmp_path) as fleet:
        fleet.start(NODES[0])
        agent = fleet.agents["north"]
        (engine,) = agent.children()
        engine.suspend()
        agent.kill()
    gone, alive = psutil.wait_procs([engine], timeout=5.0)
    assert (len(gone), alive) == (1, [])
