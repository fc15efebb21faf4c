"""Long-run budgets in a gateway: on a virtual clock with the real rooms, and over the wire."""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import structlog

from optimizer.online.pacing import Pacer
from orchestrator import log
from orchestrator.client import AsyncClient, Budget, LongRun
from orchestrator.errors import RequestError
from orchestrator.gateway.http import http_app
from orchestrator.probing import Probing
from orchestrator.types import BudgetRequest
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import answers
from tests.fakes.live import Live, live_gateway
from tests.fakes.virtual import run_virtually
from tests.faults.promises import Bill, Play, a_service
from tests.faults.world import World, draw_world

IMAGE = np.zeros((1, 8, 8), dtype=np.float32)
CHEAP = FakeArm("small", energy_j=0.01, quality_fraction=0.8)
DEAR = FakeArm("large", energy_j=0.1, quality_fraction=0.9)


# ---- the real rooms on a virtual clock: joules stray from what nodes announced


@pytest.fixture
def _quiet() -> Iterator[None]:
    log.configure(form="console", level="error")
    yield
    structlog.reset_defaults()
    log.requests.configure(form="console", level="info")


def play(world: World, budget: LongRun | None) -> list[Bill]:
    async def run() -> list[Bill]:
        service = a_service(margins=True)
        if budget is not None:
            service.budgets.set("digits", BudgetRequest(), budget)
        return await Play(world, service).run()

    return run_virtually(run())


def mean_j(bills: list[Bill]) -> float:
    return float(np.mean([bill.energy_j for bill in bills if bill.outcome == "answered"]))


@pytest.mark.usefixtures("_quiet")
def test_an_average_holds_on_digits_within_two_percent() -> None:
    """4,000 pictures; actual joules are lognormal around the announced ones, one in 200 three times that."""
    world = draw_world(4000, seed=0)
    # The best answers, whatever they cost: the price must come from the budget. Only the long-run budget limits.
    free = replace(world, energy_limit_q=np.full(4000, 1.0), profile_q=np.full(4000, "best"))
    without = mean_j(play(free, None))
    budget_j = 0.4 * without
    held = play(free, LongRun(average_energy_j=budget_j))
    assert mean_j(held) == pytest.approx(budget_j, rel=0.02)
    # The control: without pacing the same check fails.
    assert without != pytest.approx(budget_j, rel=0.02)


# ---- over the wire


async def test_a_long_run_budget_is_set_shown_explained_and_counted(live: Live) -> None:
    async with (
        live.node(arms=[CHEAP, DEAR], behaviour=answers(7, energy_j=0.05)),
        AsyncClient(live.address) as client,
    ):
        changed = await client.set_budget(None, task="digits", long_run=LongRun(average_energy_j=0.05))
        assert (changed.origin, changed.long_run, changed.pacing) == ("set", LongRun(average_energy_j=0.05), None)
        for number in range(40):
            await client.infer(IMAGE, request_id=f"r{number}")
        why = await client.explain("r39")
        assert why.pacing is not None
        assert why.pacing.requests == 39
        shown = {entry.task: entry for entry in await client.budgets()}["digits"]
        (task,) = (await client.status()).tasks
        assert shown.pacing == task.pacing
        assert task.pacing is not None
        assert task.pacing.requests == 40
        await client.set_budget(Budget(max_energy_j=1.0), task="digits")
        kept = {entry.task: entry for entry in await client.budgets()}["digits"]
        assert (kept.long_run.average_energy_j, kept.budget.max_energy_j) == (0.05, 1.0)
        service = live.gateway.service
        service.metrics.pacing = service.pacing.records()
        text = service.metrics.render().decode()
        assert 'edgewise_budget_burn_ratio{task="digits"}' in text
        assert 'edgewise_pacing_price{task="digits"}' in text
        back = await client.set_budget(None, task="digits")
        assert not back.long_run.limits
    assert http_app(service) is not None


async def test_the_account_survives_a_restart(tmp_path: Path) -> None:
    for life in range(2):
        async with (
            live_gateway(tmp_path) as live,
            live.node(arms=[CHEAP, DEAR], behaviour=answers(7, energy_j=0.05)),
            AsyncClient(live.address) as client,
        ):
            if life == 0:
                await client.set_budget(None, task="digits", long_run=LongRun(average_energy_j=0.05))
            for _ in range(10):
                await client.infer(IMAGE)
            record = live.gateway.service.pacing.record("digits")
            assert record is not None
            assert record.requests == 10 * (life + 1)


async def test_requests_flow_when_pacing_is_dead(live: Live) -> None:
    async with live.node(arms=[CHEAP, DEAR], behaviour=answers(7)), AsyncClient(live.address) as client:
        await client.set_budget(None, task="digits", long_run=LongRun(average_energy_j=0.05))
        with mock.patch.object(Pacer, "arrive", side_effect=ValueError("dead")):
            answer = await client.infer(IMAGE)
        assert answer.label == "7"
        (task,) = (await client.status()).tasks
        assert task.pacing is not None
        assert task.pacing.status == "broken"


@pytest.mark.parametrize(
    "long_run", [LongRun(average_energy_j=-1.0), LongRun(average_power_w=float("nan")), LongRun(1.0, 1.0)]
)
async def test_long_run_budgets_that_cannot_be_meant_are_refused(live: Live, long_run: LongRun) -> None:
    async with AsyncClient(live.address) as client:
        with pytest.raises(RequestError):
            await client.set_budget(None, long_run=long_run)
    await asyncio.sleep(0)


# ---- feedback


async def test_feedback_is_checked_and_reaches_the_guard(tmp_path: Path) -> None:
    async with (
        live_gateway(tmp_path) as live,
        live.node(arms=[CHEAP, DEAR], behaviour=answers(7)),
        AsyncClient(live.address) as client,
    ):
        await client.infer(IMAGE, request_id="r1")
        # The guard is off, and nothing was learned that could name a best single expert.
        assert not await client.feedback("r1", 1.0)
        for request_id, score in (("r1", 1.5), ("r1", float("nan")), ("", 1.0), ("never", 1.0)):
            with pytest.raises(RequestError):
                await client.feedback(request_id, score)


@pytest.mark.usefixtures("_quiet")
def test_a_learned_gate_is_probed_and_feedback_counts() -> None:
    """Digits with what was learned of them: the best single expert answers every tenth request beside the gate."""
    world = draw_world(600, seed=0)
    free = replace(world, energy_limit_q=np.full(600, 1.0), profile_q=np.full(600, "balanced"))

    async def run() -> tuple[int, int]:
        service = a_service(margins=True)
        service.probing = service.decider.probing = Probing(probe_fraction=0.1, chance=random.Random(0).random)
        await Play(free, service).run()
        counted = sum(service.probing.feedback(str(q), 1.0) for q in range(600))
        record = service.probing.record("digits")
        assert record is not None
        return counted, record.observations

    counted, observed = run_virtually(run())
    assert counted == observed > 300
