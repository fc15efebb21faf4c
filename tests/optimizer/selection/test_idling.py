"""Idle joules within the energy limit: against every choice of nodes with every set of arms on them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from optimizer.errors import ProblemError
from optimizer.selection import idling
from optimizer.selection.arms import Arm, Limits, Routing
from optimizer.selection.baselines.exhaustive import solve_exhaustively
from optimizer.selection.certify import certify
from optimizer.selection.idling import Stay, choose_nodes, least_energy_awake, limit_of, stays_of
from optimizer.selection.minimum import limited
from optimizer.selection.power import Power
from optimizer.selection.problem import Problem
from optimizer.selection.solution import Status
from optimizer.selection.solve import solve
from optimizer.selection.utility import AnyRight, BestOf
from tests.optimizer.selection.problems import equal_weights

NODES = tuple(f"n{k}" for k in range(4))


def house(seed: int) -> tuple[Problem, dict[str, Stay]]:
    """Seven arms on four nodes, one of which takes nothing to keep awake; either mode and utility."""
    rng = np.random.default_rng(seed)
    arms = tuple(
        Arm(f"a{n}", "x", str(rng.choice(NODES)), float(rng.uniform(0.1, 2.0)), 1.0, 1, float(rng.uniform(0.0, 1.0)))
        for n in range(7)
    )
    values_qn = rng.random((8, 7))
    utility = AnyRight(values_qn) if seed % 2 else BestOf(values_qn)
    routed = seed % 4 < 2
    limit_j = float(rng.uniform(0.5, 2.0) if routed else rng.uniform(1.0, 6.0))
    limits = Limits(energy_j=None if routed else limit_j, active=int(rng.integers(2, 7)))
    problem = Problem(arms, utility, equal_weights(utility), limits, Routing(limit_j) if routed else None)
    stays = {
        node: Stay(float(rng.uniform(0.0, 1.0)), float(rng.uniform(0.0, 0.3)), must=bool(rng.random() < 0.2))
        for node in NODES[:-1]
    }
    return problem, stays


def choices(problem: Problem, stays: dict[str, Stay]) -> Iterator[tuple[frozenset[str], float, float]]:
    """Every choice of nodes, what it takes, and the best that it leaves; -inf where no set fits."""
    free = [node for node, stay in stays.items() if not stay.must]
    always = frozenset(NODES) - frozenset(free)
    for chosen in itertools.chain.from_iterable(itertools.combinations(free, k) for k in range(len(free) + 1)):
        awake = always | frozenset(chosen)
        idle_j = sum(stay.on_j if node in awake else stay.off_j for node, stay in stays.items())
        kept = [n for n, arm in enumerate(problem.arms) if arm.node in awake]
        left_j = (limit_of(problem) or 0.0) - idle_j
        found = solve_exhaustively(limited(problem.take(kept), left_j)) if kept and left_j >= 0.0 else None
        fits = found is not None and found.status is not Status.INFEASIBLE
        yield awake, idle_j, found.objective if found is not None and fits else -math.inf


@pytest.mark.parametrize("seed", range(60))
def test_the_best_of_all_nodes_and_sets_and_certified(seed: int) -> None:
    problem, stays = house(seed)
    best = max(worth for _, _, worth in choices(problem, stays))
    plan = choose_nodes(problem, stays)
    assert plan.reasons == ()
    if best == -math.inf:
        assert plan.solution.status is Status.INFEASIBLE
        return
    assert plan.solution.objective == pytest.approx(best, abs=1e-9)
    assert plan.bound == pytest.approx(best, abs=1e-8)
    assert certify(plan.problem, plan.solution).ok
    assert {plan.problem.arms[n].node for n in plan.solution.active} <= plan.awake
    assert (limit_of(plan.problem) or 0.0) + plan.idle_j == pytest.approx(limit_of(problem) or 0.0)


def test_the_problems_are_worth_solving() -> None:
    awake = [choose_nodes(*house(seed)).awake for seed in range(60)]
    assert len(set(awake)) > 6


def two_nodes() -> Problem:
    """A good arm on a machine of its own, and two small ones on another."""
    arms = (Arm("good@pc", "g", "pc", 2.0, 1.0), Arm("a@box", "a", "box", 1.0, 1.0), Arm("b@box", "b", "box", 1.0, 1.0))
    utility = BestOf(np.array([[0.9, 0.6, 0.2], [0.9, 0.2, 0.6]]))
    return Problem(arms, utility, equal_weights(utility), Limits(energy_j=4.0))


STAYS = {"pc": Stay(1.5), "box": Stay(0.5)}


def test_counting_idle_watts_changes_the_set() -> None:
    """Without them all three are active, which takes 6 J with 2 J of idling. The control is the first line."""
    assert solve(two_nodes()).active == (0, 1, 2)
    plan = choose_nodes(two_nodes(), STAYS)
    assert plan.awake == {"pc"}
    assert [plan.problem.arms[n].name for n in plan.solution.active] == ["good@pc"]
    assert plan.idle_j == 1.5
    assert plan.solution.objective == pytest.approx(0.9)
    dearer = choose_nodes(two_nodes(), {"pc": Stay(2.5), "box": Stay(0.5)})
    assert dearer.awake == {"box"}
    assert dearer.solution.objective == pytest.approx(0.6)


def test_the_fewest_joules_with_idling_counted() -> None:
    least = least_energy_awake(two_nodes(), STAYS, min_quality=0.6)
    assert least.plan.awake == {"box"}
    assert least.energy_j == pytest.approx(2.5, rel=2e-4)
    assert least.lower_j <= 2.5 + 1e-12
    better = least_energy_awake(two_nodes(), STAYS, min_quality=0.7)
    assert better.plan.awake == {"pc"}
    assert better.energy_j == pytest.approx(3.5, rel=2e-4)
    assert least_energy_awake(two_nodes(), STAYS, min_quality=0.95).plan.solution.status is Status.INFEASIBLE


@pytest.mark.parametrize("seed", range(12))
def test_no_fewer_joules_would_do(seed: int) -> None:
    problem, stays = house(seed)
    wanted = 0.9 * choose_nodes(problem, stays).solution.objective
    if wanted <= 0.0:
        return
    least = least_energy_awake(problem, stays, min_quality=wanted)
    assert least.plan.solution.objective >= wanted
    assert max(worth for _, _, worth in choices(limited(problem, least.lower_j * 0.999), stays)) < wanted
    assert least.energy_j - least.lower_j <= 1.01e-4 * least.energy_j


def test_a_search_that_ends_early_still_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idling, "MAX_BOXES", 2)
    for seed in range(30):
        problem, stays = house(seed)
        best = max(worth for _, _, worth in choices(problem, stays))
        plan = choose_nodes(problem, stays)
        assert plan.bound >= best - 1e-9
        assert plan.solution.objective <= max(best, 0.0) + 1e-9


def test_watts_become_joules_per_request() -> None:
    powers = {
        "awake": Power(10.0, 2.0, wake_j=50.0, wake_s=5.0, fall_j=30.0, fall_s=5.0),
        "asleep": Power(10.0, 2.0, wake_j=50.0, wake_s=5.0, fall_j=30.0, fall_s=5.0, awake=False),
        "stays": Power(4.0, may_sleep=False),
    }
    stays = stays_of(powers, rate_per_s=2.0, horizon_s=100.0)
    # A turn takes 80 J, of which sleeping would have taken 20.
    figures = [(stays[node].on_j, stays[node].off_j, stays[node].must) for node in ("awake", "asleep", "stays")]
    assert figures[:2] == [pytest.approx((4.0, 0.3, False)), pytest.approx((4.3, 0.0, False))]
    assert figures[2] == (2.0, 0.0, True)


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ProblemError, match="no"):
        choose_nodes(replace(two_nodes(), limits=Limits()), STAYS)
    for rate_per_s, horizon_s in ((0.0, 1.0), (1.0, 0.0), (math.nan, 1.0)):
        with pytest.raises(ProblemError):
            stays_of({"n": Power(1.0)}, rate_per_s=rate_per_s, horizon_s=horizon_s)
