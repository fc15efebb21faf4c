"""(e) One arm has drifted: a plan that stands, and a warm start, beside a cold solve.

Which drift: `solver_instances.drifted`, a random arm that answers 5 % better or worse and costs 5 % more or less, three
of them per instance at 100 arms and one at 500. Every repetition takes the three ways one after the other: a plan that
was solved before, untimed, follows the drift; a warm start from a solution with its tree; a cold solve. All to gap 0.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from optimizer.selection.exact import Search
from optimizer.selection.problem import Problem
from optimizer.selection.solution import Solution
from optimizer.selection.solve import solve
from optimizer.selection.standing import StandingPlan
from optimizer.selection.utility import AnyRight, BestOf, Floats
from tests.bench import solver_instances as instances
from tests.bench.harness import Row
from tests.bench.solver_instances import BUDGETS, UTILITIES, Case
from tests.bench.solver_timing import fresh

REPEATS, LONGEST_S = 5, 4.0


@dataclass(frozen=True)
class Drift:
    """Median seconds of each way, and whether the plan that stands had to search any box again."""

    standing_s: float
    warm_s: float
    cold_s: float
    opened: bool


def rows(count: int) -> list[Row]:
    """100 arms, with the bar, and without one 500 arms, where a cold solve takes longer."""
    pairs = [(utility, budget) for utility in UTILITIES for budget in BUDGETS]
    hundred = [case for pair in pairs for case in instances.medium(pair[0], 100, pair[1], count=count)]
    five_hundred = [case for pair in pairs for case in instances.large(*pair)][: 3 * count]
    smaller = [followed(case, case.seed + 1000 * again) for case in hundred for again in range(3)]
    larger = [followed(case, case.seed) for case in five_hundred]
    return [*_rows("e", smaller, 100, instances.QUERIES), *_rows("e_500_arms", larger, 500, 500)]


def _rows(name: str, drifts: Sequence[Drift], arms: int, queries: int) -> list[Row]:
    sizes: dict[str, object] = {"drifts": len(drifts), "arms": arms, "queries": queries}
    ratios, warm = [one.standing_s / one.cold_s for one in drifts], [one.warm_s / one.cold_s for one in drifts]
    medians_ms = [statistics.median(seconds) * 1e3 for seconds in _ways(drifts)]
    return [
        Row(f"{name}_ratio_median", statistics.median(ratios), "fraction", dict(sizes)),
        Row(f"{name}_ratio_worst", max(ratios), "fraction", dict(sizes)),
        Row(f"{name}_opened_fraction", statistics.fmean(one.opened for one in drifts), "fraction", dict(sizes)),
        Row(f"{name}_ms_median", medians_ms[0], "ms", {**sizes, "cold_ms_median": medians_ms[1]}),
        Row(f"{name}_warm_ratio_median", statistics.median(warm), "fraction", dict(sizes)),
    ]


def _ways(drifts: Sequence[Drift]) -> tuple[list[float], list[float]]:
    return [one.standing_s for one in drifts], [one.cold_s for one in drifts]


def followed(case: Case, seed: int) -> Drift:
    """One drift, three ways."""
    before, after = solve(case.problem, Search(prove=True)), instances.drifted(case.problem, seed)
    arm, worth_q = _arm(case.problem, after), _worth_qn(after)
    standing, warm, cold, began_s = list[float](), list[float](), list[float](), time.perf_counter()
    opened = False
    while len(cold) < REPEATS and (not cold or time.perf_counter() - began_s < LONGEST_S):
        with StandingPlan(case.problem) as plan:
            column_q, energy_j = worth_q[:, arm].copy(), after.arms[arm].energy_j
            found = _timed(standing, lambda: plan.drift(arm, worth_q=column_q, energy_j=energy_j))  # noqa: B023
        problems = [fresh(after), fresh(after)]
        again = _timed(warm, lambda: solve(problems[0], warm=before))  # noqa: B023
        exact = _timed(cold, lambda: solve(problems[1]))  # noqa: B023
        assert abs(exact.objective - found.objective) <= 1e-9, "a plan that stands gave another answer"
        assert abs(exact.objective - again.objective) <= 1e-9, "a warm start changed the answer"
        opened = found.explored > 0
    return Drift(statistics.median(standing), statistics.median(warm), statistics.median(cold), opened)


def _timed(seconds: list[float], call: Callable[[], Solution]) -> Solution:
    start_s = time.perf_counter()
    solution = call()
    seconds.append(time.perf_counter() - start_s)
    return solution


def _worth_qn(problem: Problem) -> Floats:
    assert isinstance(problem.utility, BestOf | AnyRight)
    return problem.utility.quality_qn if isinstance(problem.utility, BestOf) else problem.utility.right_qn


def _arm(before: Problem, after: Problem) -> int:
    """Which one has drifted."""
    energies = np.array([[arm.energy_j for arm in problem.arms] for problem in (before, after)])
    return int(np.flatnonzero(energies[0] != energies[1])[0])
