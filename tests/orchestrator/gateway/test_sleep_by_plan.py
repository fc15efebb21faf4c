"""What the plan lets sleep: nodes that no task needs, for all tasks together. No machine sleeps here."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from orchestrator.client import AsyncClient
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import answers
from tests.fakes.live import live_gateway, until
from tests.fakes.sleeper import FakeSleeper
from tests.orchestrator.gateway.test_sleep import ARM, DIGIT, FRUGAL, answers_both


async def test_a_node_that_two_tasks_share_stays_and_theirs_alone_sleeps(tmp_path: Path) -> None:
    """`hub` may not sleep and serves both; `sleeper` serves one of them better, but not for its 20 W. With the plan's
    process held up, no certified plan does without `sleeper`, and it stays."""
    held = asyncio.Event()
    async with (
        live_gateway(tmp_path, sleep=FRUGAL) as live,
        FakeSleeper(
            live.address, arms=[FakeArm("large", quality_fraction=0.95)], behaviour=answers_both(7, "a")
        ) as sleeper,
        live.node(name="hub", arms=[ARM, FakeArm("writer", task="chat")], behaviour=answers_both(3, "b")),
    ):
        planner, fleet = live.gateway.planner, live.gateway.service.fleet
        beside = planner.beside

        async def slow(work: Any, snapshot: Any) -> Any:
            if snapshot.resting:
                await held.wait()
            return await beside(work, snapshot)

        planner.beside = slow  # type: ignore[method-assign, assignment]
        await until(lambda: planner.needed() == {"hub", "sleeper"} and bool(planner._resting))
        for _ in range(3):
            assert (await live.gateway.vigil.look()).sleep == ()
        assert fleet.state("sleeper").value == "healthy"
        held.set()
        await until(lambda: fleet.state("sleeper").value == "asleep" and sleeper.naps)
        assert planner.needed() == {"hub"}


@pytest.mark.parametrize(
    ("changes", "sleeps"),
    [({}, True), ({"enabled": False}, False), ({"min_awake_s": 600.0}, False), ({"price_per_j": 1e-9}, False)],
)
async def test_the_plan_lets_an_idle_node_sleep(tmp_path: Path, changes: dict[str, Any], *, sleeps: bool) -> None:
    """A better node that idles at 20 W beside one that may not sleep: not worth it, unless joules are cheap."""
    config = FRUGAL.model_copy(update=changes)
    async with (
        live_gateway(tmp_path, sleep=config) as live,
        FakeSleeper(live.address, arms=[FakeArm("large", quality_fraction=0.95)], behaviour=answers(7)) as sleeper,
        live.node(name="awake", arms=[ARM], behaviour=answers(3)),
        AsyncClient(live.address) as client,
    ):
        fleet, vigil = live.gateway.service.fleet, live.gateway.vigil
        if not sleeps:
            if config.enabled:
                assert (await vigil.look()).sleep == ()
            assert (await client.infer(DIGIT)).label
            assert fleet.state("sleeper").value == "healthy"
            return
        await until(lambda: fleet.state("sleeper").value == "asleep" and sleeper.naps)
        assert (await client.infer(DIGIT)).label == "3"
        # Somebody must stay: the plan lets nobody else sleep, and does not wake it again.
        await vigil.look()
        assert [fleet.state(name).value for name in ("awake", "sleeper")] == ["healthy", "asleep"]
