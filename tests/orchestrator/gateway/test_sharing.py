"""A budget that tasks share, in a running gateway: parts, plans, prices, and what happens when sharing fails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from unittest import mock

import pytest
from pydantic import ValidationError

from orchestrator.cli.pacing import pacing_sentence, rounding_sentence
from orchestrator.client import AsyncClient, LongRun
from orchestrator.config import Sharing
from orchestrator.gateway import sharer as sharer_module
from orchestrator.planning.make import PlanRejected
from orchestrator.store.records import Quota
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import answers, speaks
from tests.fakes.live import Live, live_gateway, until
from tests.orchestrator.gateway.calls import chat, digit, generate, infer

# A joule buys digits ten points, and chat forty.
ARMS = (
    FakeArm("small", energy_j=1.0, quality_fraction=0.8),
    FakeArm("large", energy_j=2.0, quality_fraction=0.9),
    FakeArm("speaker", task="chat", energy_j=1.0, quality_fraction=0.5),
    FakeArm("orator", task="chat", energy_j=2.0, quality_fraction=0.9),
)


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[Live]:
    """A gateway that shares 1.55 J per request, asked once by each of its two tasks; it is told when to look."""
    config = Sharing(average_energy_j=1.55, check_s=3600.0)
    voices = {"speaker": speaks("hi"), "orator": speaks("hello")}
    async with (
        live_gateway(tmp_path, sharing=config) as live,
        live.node(arms=ARMS, behaviour=answers(7), by_expert=voices),
    ):
        await until(lambda: {"digits", "chat"} <= live.gateway.planner._made.keys())
        await infer(live, digit())
        await generate(live, chat())
        yield live


def parts_j(live: Live) -> dict[str, float]:
    return {task: part.energy_j for task, part in live.gateway.service.budgets.shares.items()}


async def test_parts_are_budgets_of_their_tasks_and_plans_are_made_for_them(shared: Live) -> None:
    planner, budgets = shared.gateway.planner, shared.gateway.service.budgets
    assert planner._made["chat"].mean_energy_j is None
    await shared.gateway.sharer.look()
    assert parts_j(shared) == {"chat": pytest.approx(2.0), "digits": pytest.approx(1.0, abs=0.1)}
    assert sum(parts_j(shared).values()) / 2.0 <= 1.55
    assert budgets.long_run("chat") == LongRun(average_energy_j=parts_j(shared)["chat"])
    planner._wanted.set()
    await until(lambda: planner._made["chat"].mean_energy_j == parts_j(shared)["chat"])


async def test_prices_are_shown_where_budgets_are(shared: Live) -> None:
    await shared.gateway.sharer.look()
    await infer(shared, digit(request_id="asked"))
    async with AsyncClient(shared.address) as client:
        why = (await client.explain("asked")).pacing
        (shown,) = [entry.pacing for entry in await client.budgets() if entry.task == "digits"]
    for record in (why, shown):
        assert record is not None
        assert record.share is not None
        assert record.share == shared.gateway.service.budgets.shares["digits"]
        assert "+1 J per request buys +10 points, and the next joule comes here" in pacing_sentence(record)
        assert "convex program" in rounding_sentence(record.share)


async def test_a_task_with_a_budget_of_its_own_has_no_part(shared: Live) -> None:
    async with AsyncClient(shared.address) as client:
        await client.set_budget(None, task="digits", long_run=LongRun(average_energy_j=1.9))
    await shared.gateway.sharer.look()
    assert parts_j(shared).keys() == {"chat"}
    assert shared.gateway.service.budgets.long_run("digits") == LongRun(average_energy_j=1.9)


@pytest.mark.parametrize("why", [PlanRejected("no"), TimeoutError(), RuntimeError("the process is gone")])
async def test_what_goes_wrong_leaves_the_parts_in_force(shared: Live, why: Exception) -> None:
    await shared.gateway.sharer.look()
    before = parts_j(shared)
    await infer(shared, digit())
    with mock.patch.object(shared.gateway.planner, "beside", side_effect=why):
        await shared.gateway.sharer.look()
    assert parts_j(shared) == before != {}
    assert (await infer(shared, digit())).label == "7"


async def test_parts_that_hardly_move_stay_as_they_are(shared: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: where every change counts, the same look changes them."""
    sharer, budgets = shared.gateway.sharer, shared.gateway.service.budgets
    await sharer.look()
    before = budgets.shares
    for _ in range(20):
        sharer.arrivals.arrived["digits"] += 1
        sharer.arrivals.arrived["chat"] += 1
    await sharer.look()
    assert budgets.shares is before
    monkeypatch.setattr(sharer_module, "SAME_FRACTION", -1.0)
    await sharer.look()
    assert budgets.shares is not before


async def test_what_the_fleet_may_spend_is_shared_once_it_is_limited(tmp_path: Path) -> None:
    config = Sharing(fleet_limit=True, check_s=1.0)
    async with (
        live_gateway(tmp_path, sharing=config) as live,
        live.node(arms=ARMS, behaviour=answers(7)),
    ):
        await until(lambda: "digits" in live.gateway.planner._made)
        sharer = live.gateway.sharer
        sharer.arrivals.arrived["digits"] += 1
        await sharer.look()
        assert parts_j(live) == {}
        # One request per second: 1.5 W are 1.5 J for each. The day's joules are more than that, so the watts count.
        await live.gateway.service.till.ledger.put_quota("fleet", Quota(mean_w=1.5, day_j=1e6))
        for _ in range(8):
            sharer.arrivals.rates_per_s["digits"] = 1.0
            sharer.arrivals.arrived["digits"] += 1
            await sharer.look()
        assert 1.3 < parts_j(live)["digits"] <= 1.5
        await live.gateway.service.till.ledger.put_quota("fleet", None)
        await sharer.look()
        assert parts_j(live) == {}


async def test_a_gateway_that_shares_nothing_has_no_parts(live: Live) -> None:
    async with live.node(arms=ARMS, behaviour=answers(7)):
        await infer(live, digit())
        await live.gateway.sharer.look()
        assert parts_j(live) == {}
        assert not live.gateway.service.budgets.long_run("digits").limits


def test_tasks_share_one_budget() -> None:
    with pytest.raises(ValidationError, match="tasks share one budget"):
        Sharing(average_energy_j=1.0, fleet_limit=True)
