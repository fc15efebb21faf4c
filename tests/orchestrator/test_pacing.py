"""Accounts of long-run budgets: held, kept across restarts, and never in the way."""

import json
import math
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from optimizer.online.pacing import Pacer
from orchestrator.budgets import Budgets
from orchestrator.longrun import LongRun
from orchestrator.pacing import Pacing
from orchestrator.routing.plan import NO_CERTIFICATE, Plan
from orchestrator.routing.route import Decision, Wish, route
from orchestrator.types import BudgetRequest, OnInfeasible
from tests.orchestrator.builders import a_board, an_arm, limits
from tests.orchestrator.routing.models import GivenModel, one

DEFAULT = BudgetRequest(None, 1000.0, OnInfeasible.ERROR, "balanced")
BOARD = a_board(
    an_arm("small", "n1", energy_j=0.01), an_arm("large", "n1", energy_j=0.1), an_arm("huge", "n1", energy_j=1.0)
)
PLAN = Plan(
    "p",
    GivenModel({one("small"): 0.8, one("large"): 0.9, one("huge"): 0.95}, price_per_j={"eco": 1.0}),
    None,
    NO_CERTIFICATE,
)
TABLE = PLAN.table(BOARD.arms("digits"), BOARD)


def paced(file: Path | None = None, **long_run: float) -> Pacing:
    budgets = Budgets(DEFAULT, {}, None)
    budgets.set("digits", BudgetRequest(), LongRun(**long_run))
    return Pacing(budgets, file)


def ask(pacing: Pacing, number: int, *, energy_factor: float = 1.0, **wanted: Any) -> Decision:
    """One request from its arrival to its settlement."""
    pace = pacing.arrive("digits", float(number))
    decision = route(np.zeros(64), plan=PLAN, table=TABLE, limits=limits(**wanted), wish=Wish(), pace=pace)
    charge = pacing.routed("digits", decision)
    if charge is not None:
        pacing.settle("digits", charge, charge.expected_j * energy_factor)
    return decision


def mean_j(pacing: Pacing, count: int, **wanted: Any) -> float:
    spent = [ask(pacing, number, **wanted) for number in range(count)]
    return float(np.mean([d.offer.energy_r[d.index] for d in spent if d.index is not None]))


def test_without_a_long_run_budget_there_is_no_pace() -> None:
    pacing = Pacing(Budgets(DEFAULT, {}, None), None)
    decision = ask(pacing, 0)
    assert (decision.pace, pacing.record("digits"), pacing.records()) == (None, None, {})


@pytest.mark.parametrize("budget_j", [0.05, 0.3])
def test_an_average_is_held(budget_j: float) -> None:
    pacing = paced(average_energy_j=budget_j)
    assert mean_j(pacing, 6000) == pytest.approx(budget_j, rel=0.05)
    record = pacing.record("digits")
    assert record is not None
    assert (record.status, record.requests) == ("held", 6000)
    assert record.burn_ratio == pytest.approx(1.0, abs=0.05)
    assert record.left_j > 0.0


def test_watts_are_held() -> None:
    pacing = paced(average_power_w=0.3)
    assert mean_j(pacing, 6000) == pytest.approx(0.3, rel=0.05)


def test_the_profiles_own_price_wins_where_it_is_dearer() -> None:
    pacing = paced(average_energy_j=0.5)
    decision = [ask(pacing, number, profile="eco") for number in range(600)][-1]
    assert decision.price.per_j == 1.0
    assert decision.floor_per_j == 1.0
    record = pacing.record("digits")
    assert record is not None
    assert record.status == "slack"


def test_an_infeasible_average_says_what_would_do_and_answers_at_the_fewest_joules() -> None:
    pacing = paced(average_energy_j=0.001)
    decisions = [ask(pacing, number) for number in range(1000)]
    assert decisions[-1].route is not None
    assert decisions[-1].route.name == "small:v1@n1"
    record = pacing.record("digits")
    assert record is not None
    assert record.status == "infeasible"
    assert record.cheapest_j == pytest.approx(0.01, rel=0.05)


def test_a_request_that_gets_no_route_is_neither_charged_nor_counted() -> None:
    pacing = paced(average_energy_j=0.3)
    decision = ask(pacing, 0, energy_j=1e-9)
    assert decision.route is None
    record = pacing.record("digits")
    assert record is not None
    assert record.requests == 0
    assert math.isnan(record.burn_ratio)


def test_a_changed_budget_keeps_the_account_and_another_kind_opens_one() -> None:
    budgets = Budgets(DEFAULT, {}, None)
    budgets.set("digits", BudgetRequest(), LongRun(average_energy_j=0.3))
    pacing = Pacing(budgets, None)
    mean_j(pacing, 600)
    budgets.set("digits", BudgetRequest(), LongRun(average_energy_j=0.05))
    assert pacing.record("digits") is None
    ask(pacing, 600)
    assert pacing.record("digits").requests == 601  # type: ignore[union-attr]
    budgets.set("digits", BudgetRequest(), LongRun(average_power_w=0.05))
    ask(pacing, 601)
    assert pacing.record("digits").requests == 1  # type: ignore[union-attr]
    budgets.set("digits", BudgetRequest(), LongRun(average_energy_j=0.0))
    assert ask(pacing, 602).pace is None
    assert pacing.records() == {}


def test_accounts_survive_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "pacing.json"
    pacing = paced(file, average_energy_j=0.3)
    mean_j(pacing, 2000)
    pacing.keep(100.0)
    ask(pacing, 2000)
    pacing.keep(101.0)
    assert json.loads(file.read_text())["digits"]["requests"] == 2000
    pacing.keep(101.0, force=True)
    before = pacing.record("digits")
    again = paced(file, average_energy_j=0.3)
    decision = ask(again, 2001)
    after = again.record("digits")
    assert before is not None
    assert after is not None
    assert after.requests == before.requests + 1
    assert decision.price.per_j == pytest.approx(before.price_per_j, rel=0.05)


def test_accounts_that_cannot_be_read_or_written_do_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "pacing.json"
    file.write_text('{"digits": {"no": "account"}}')
    pacing = paced(file, average_energy_j=0.3)
    assert ask(pacing, 0).pace is not None
    blocked = paced(tmp_path / "pacing.json" / "below-a-file.json", average_energy_j=0.3)
    ask(blocked, 0)
    blocked.keep(0.0)


@pytest.mark.parametrize("dead", ["arrive", "charge", "learn", "settle"])
def test_requests_flow_when_pacing_is_dead_until_it_is_set_again(dead: str) -> None:
    budgets = Budgets(DEFAULT, {}, None)
    budgets.set("digits", BudgetRequest(), LongRun(average_energy_j=0.3))
    pacing = Pacing(budgets, None)
    with mock.patch.object(Pacer, dead, side_effect=ZeroDivisionError("dead")):
        for number in range(3):
            assert ask(pacing, number).route is not None
    record = pacing.record("digits")
    assert record is not None
    assert record.status == "broken"
    assert ask(pacing, 3).pace is None
    budgets.set("digits", BudgetRequest(), LongRun(average_energy_j=0.31))
    assert ask(pacing, 4).pace is not None
