"""The guard of the gate at work: probes, feedback, and requests that flow without it."""

import math
import random
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from optimizer.online.guard import Guard
from orchestrator.probing import Probing
from orchestrator.routing.plan import NO_CERTIFICATE, Plan
from orchestrator.routing.route import Decision, Wish, route
from tests.orchestrator.builders import a_board, an_arm, limits
from tests.orchestrator.routing.models import GivenModel, one

BOARD = a_board(an_arm("small", "n1", energy_j=0.01), an_arm("large", "n1", energy_j=0.1))
# At this price the gate takes the small expert; a joule must buy two right answers.
MODEL = GivenModel({one("small"): 0.85, one("large"): 0.9}, price_per_j={"best": 2.0})
PLAN = Plan("p", MODEL, None, NO_CERTIFICATE)
TABLE = PLAN.table(BOARD.arms("digits"), BOARD)


def routed(expert: str | None = None, energy_j: float = math.inf) -> Decision:
    return route(np.zeros(64), plan=PLAN, table=TABLE, limits=limits(energy_j), wish=Wish(expert=expert))


def ask(probing: Probing, request_id: str, *, best: str | None = "large", energy_j: float = math.inf) -> str:
    """Who answered."""
    gate = routed(energy_j=energy_j)
    decision = probing.decide(request_id, gate, task="digits", expert=best, single=lambda name: routed(name, energy_j))
    return "" if decision.route is None else decision.route.route.experts[0]


def guard_of(fraction: float = 0.2, *, seed: int = 0) -> Probing:
    return Probing(probe_fraction=fraction, tolerance=0.02, chance=random.Random(seed).random)


def live(probing: Probing, requests: int, *, right: dict[str, float], start: int = 0) -> list[str]:
    """Requests with feedback: who answered each of them."""
    rng, answered = np.random.default_rng(start), []
    for number in range(start, start + requests):
        expert = ask(probing, f"r{number}")
        answered.append(expert)
        assert probing.feedback(f"r{number}", float(rng.random() < right[expert]))
    return answered


def test_off_unless_configured() -> None:
    assert not Probing().on
    assert guard_of().on


def test_some_requests_are_answered_by_the_best_single_expert() -> None:
    answered = [ask(guard, f"r{number}") for guard in [guard_of()] for number in range(2000)]
    assert answered.count("large") / 2000 == pytest.approx(0.2, abs=0.03)


def test_a_gate_that_earns_its_joules_stays() -> None:
    probing = guard_of()
    live(probing, 6000, right={"small": 0.85, "large": 0.9})
    record = probing.record("digits")
    assert record is not None
    assert (record.in_force, record.stays, record.observations) == ("gate", 1, 6000)
    # 0.85 - 2 · 0.01 against 0.9 - 2 · 0.1.
    assert record.mean_difference == pytest.approx(0.13, abs=0.03)


def test_a_gate_that_does_not_is_set_aside_and_comes_back_when_it_does() -> None:
    probing = guard_of()
    live(probing, 6000, right={"small": 0.4, "large": 0.9})
    record = probing.record("digits")
    assert record is not None
    assert (record.in_force, record.stays) == ("best_single", 2)
    answered = live(probing, 8000, right={"small": 0.88, "large": 0.9}, start=6000)
    assert answered[:500].count("large") > 350
    again = probing.record("digits")
    assert again is not None
    assert (again.in_force, again.stays) == ("gate", 3)


def test_only_comparisons_count_and_only_once() -> None:
    probing = guard_of()
    ask(probing, "same", best="small")
    assert probing.feedback("same", 1.0)
    assert not probing.feedback("same", 1.0)
    assert not probing.feedback("never-asked", 1.0)
    ask(probing, "unknown-best", best=None)
    assert not probing.feedback("unknown-best", 1.0)
    # The best single expert does not fit the request: there is nothing to compare.
    assert ask(probing, "tight", energy_j=0.05) == "small"
    assert not probing.feedback("tight", 1.0)
    record = probing.record("digits")
    assert record is not None
    assert record.observations == 1


def test_requests_flow_when_the_guard_is_dead() -> None:
    probing = guard_of()
    with mock.patch("orchestrator.probing.Draw", side_effect=ZeroDivisionError("dead")):
        assert ask(probing, "r0") == "small"
    assert {ask(probing, f"r{number}") for number in range(1, 60)} == {"small"}
    other = guard_of()
    ask(other, "r0")
    with mock.patch.object(Guard, "observe", side_effect=ValueError("dead")):
        assert not other.feedback("r0", 1.0)


def test_a_request_without_a_route_is_left_alone() -> None:
    probing = guard_of()
    nothing = routed(energy_j=1e-9)
    assert nothing.route is None
    assert probing.decide("r0", nothing, task="digits", expert="large", single=routed) is nothing


def test_evidence_survives_a_restart_under_the_same_terms_only(tmp_path: Path) -> None:
    file = tmp_path / "guard.json"

    def reopened(fraction: float) -> Probing:
        return Probing(probe_fraction=fraction, tolerance=0.02, file=file, chance=random.Random(0).random)

    probing = reopened(0.2)
    live(probing, 300, right={"small": 0.85, "large": 0.9})
    probing.keep()
    assert reopened(0.2).record("digits") == probing.record("digits")
    assert reopened(0.3).record("digits") is None
    file.write_text("[]")
    assert reopened(0.2).record("digits") is None
