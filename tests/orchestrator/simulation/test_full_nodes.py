"""Nodes that fill up: who comes last goes elsewhere or is told so at once, and what is admitted is in time.

Each with its control: with the protection off the same load ends badly.
"""

from __future__ import annotations

import pytest

from orchestrator.fleet.load import NodeLoad
from orchestrator.simulation.outcome import CODE, Outcome
from orchestrator.simulation.run import simulate
from orchestrator.simulation.world import GatewayTraits, TaskClass, World
from orchestrator.types import BudgetRequest
from tests.orchestrator.simulation.worlds import a_device, a_load, a_world, an_expert

WIDE = GatewayTraits(max_running=65_536)


def counts(outcome: Outcome) -> dict[str, int]:
    return {state: int((outcome.ends.state_q == code).sum()) for state, code in CODE.items()}


def late_fraction(outcome: Outcome) -> float:
    """Of the requests that were admitted."""
    ended = counts(outcome)
    return ended["DEADLINE_EXCEEDED"] / (ended["DEADLINE_EXCEEDED"] + ended["ANSWERED"])


def answered(outcome: Outcome, kind: str) -> int:
    return sum(machine.answered for machine in outcome.machines if machine.name.startswith(kind))


def two_kinds(*, dear: int, queue_limit: int, latency_ms: float) -> World:
    """One cheap node and some dear ones that are as good."""
    kinds = [
        a_device(name, an_expert(energy_j=energy_j, p50_ms=10.0, p95_ms=25.0), queue_limit=queue_limit)
        for name, energy_j in (("cheap", 0.1), ("dear", 5.0))
    ]
    task = TaskClass("a", budget=BudgetRequest(None, latency_ms), deadline_s=10.0)
    return a_world((kinds[0], 1), (kinds[1], dear), tasks=(task,), gateway=WIDE)


@pytest.fixture
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Routing does not look at queues, as if every node took any number."""
    monkeypatch.setattr(NodeLoad, "has_room", property(lambda _: True))


@pytest.fixture
def unbounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are taken for what is expected of them."""
    monkeypatch.setattr(NodeLoad, "wait_bound_ms", NodeLoad.wait_ms)


def test_where_one_queue_is_full_the_next_arm_answers() -> None:
    outcome = simulate(two_kinds(dear=1, queue_limit=2, latency_ms=5000.0), a_load(110.0, 2000))
    ended = counts(outcome)
    assert ended["ATTEMPTS_FAILED"] == 0
    assert answered(outcome, "dear") > 200
    # Nothing was sent to a node that had no room.
    assert outcome.ends.attempts_q.max() == 1


@pytest.mark.usefixtures("unlimited")
def test_control_who_does_not_look_is_refused_by_the_node_first() -> None:
    outcome = simulate(two_kinds(dear=1, queue_limit=2, latency_ms=5000.0), a_load(110.0, 2000))
    assert outcome.ends.attempts_q.max() > 1
    assert outcome.ends.attempts_q.mean() > 1.1


def test_where_all_queues_are_full_requests_are_shed_and_not_failed() -> None:
    outcome = simulate(two_kinds(dear=1, queue_limit=2, latency_ms=5000.0), a_load(400.0, 2000))
    ended = counts(outcome)
    assert ended["ATTEMPTS_FAILED"] == ended["NO_NODE"] == ended["BUDGET_INFEASIBLE"] == 0
    assert ended["OVERLOADED"] + ended["ANSWERED"] == 2000
    assert ended["OVERLOADED"] > 500
    assert outcome.ends.attempts_q.max() == 1


@pytest.mark.usefixtures("unlimited")
def test_control_without_a_look_at_queues_they_are_shed_only_after_having_been_sent() -> None:
    outcome = simulate(two_kinds(dear=1, queue_limit=2, latency_ms=5000.0), a_load(400.0, 2000))
    refused = outcome.ends.state_q == CODE["OVERLOADED"]
    assert refused.sum() > 500
    assert outcome.ends.attempts_q[refused].mean() > 1.9


@pytest.mark.parametrize("latency_ms", [150.0, 400.0])
def test_a_cheap_node_is_filled_no_further_than_its_answers_are_in_time(latency_ms: float) -> None:
    outcome = simulate(two_kinds(dear=3, queue_limit=1000, latency_ms=latency_ms), a_load(200.0, 3000))
    assert late_fraction(outcome) <= 0.01
    # Not by leaving it idle, and not by refusing many.
    assert answered(outcome, "cheap") > 1000
    assert counts(outcome)["OVERLOADED"] < 50


@pytest.mark.parametrize("latency_ms", [150.0, 400.0])
@pytest.mark.usefixtures("unbounded")
def test_control_waits_without_a_margin_make_many_late(latency_ms: float) -> None:
    outcome = simulate(two_kinds(dear=3, queue_limit=1000, latency_ms=latency_ms), a_load(200.0, 3000))
    assert late_fraction(outcome) > 0.05


@pytest.mark.parametrize("p95_ms", [500.0, 900.0])
def test_margins_leave_a_node_busy_at_ten_times_its_capacity(p95_ms: float) -> None:
    device = a_device("n", an_expert(p50_ms=500.0, p95_ms=p95_ms), concurrency=4)
    task = TaskClass("a", budget=BudgetRequest(None, 2500.0), deadline_s=10.0)
    outcome = simulate(a_world((device, 1), tasks=(task,), gateway=WIDE), a_load(80.0, 1600))
    assert late_fraction(outcome) <= 0.01
    busy = outcome.machines[0].busy_s / outcome.until_s / 4
    assert busy > 0.95
