"""The one call for a whole problem says what the longer way with its proof says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from optimizer.native.library import available
from optimizer.selection.certify import certify
from optimizer.selection.exact import Search, scaled_problem, solve_exact
from optimizer.selection.problem import Mode
from optimizer.selection.utility import AnyRight, BestOf
from tests.property.selection_problems import make_problem

pytestmark = pytest.mark.skipif(not available(), reason="not run: the compiled solver is not built here")
SEEDS = range(60)
UTILITIES = ("best_of", "any_right")


@pytest.mark.parametrize("utility", UTILITIES)
def test_it_agrees_with_the_search_that_proves(utility: str) -> None:
    for seed in SEEDS:
        problem = make_problem(utility, Mode.WORST_CASE, seed)
        short, long = solve_exact(problem, Search()), solve_exact(problem, Search(prove=True))
        assert (short.status, short.active) == (long.status, long.active), seed
        assert short.objective == pytest.approx(long.objective, rel=1e-9, abs=1e-300)
        assert short.bound == pytest.approx(long.bound, rel=1e-9, abs=1e-300)
        assert short.price_per_j == pytest.approx(long.price_per_j, rel=1e-9, abs=1e-300)
        assert short.explored == long.explored


@pytest.mark.parametrize("utility", UTILITIES)
def test_it_finds_the_same_arms_eligible(utility: str) -> None:
    for seed in SEEDS:
        problem = make_problem(utility, Mode.WORST_CASE, seed)
        assert scaled_problem(problem).eligible_e == problem.eligible, seed


def test_a_search_that_is_stopped_keeps_a_bound_that_holds() -> None:
    stopped = 0
    for seed in SEEDS:
        problem = make_problem("any_right", Mode.WORST_CASE, seed)
        found = solve_exact(problem, Search(node_limit=1))
        stopped += found.gap > 0.0
        verdict = certify(problem, found)
        assert verdict.ok, (seed, verdict.reasons)
    assert stopped, "no search was stopped, so nothing was tested"


def test_matrices_that_cannot_be_written_are_read() -> None:
    problem = make_problem("best_of", Mode.WORST_CASE, 3)
    assert isinstance(problem.utility, BestOf)
    locked_qn = problem.utility.quality_qn.copy()
    locked_qn.setflags(write=False)
    again = replace(problem, utility=BestOf(locked_qn))
    assert solve_exact(again, Search()) == solve_exact(problem, Search())


def test_chances_of_one_are_certified() -> None:
    problem = make_problem("any_right", Mode.WORST_CASE, 0)
    sure = replace(problem, utility=AnyRight(np.ones((problem.utility.queries, len(problem.arms)))))
    assert certify(sure, solve_exact(sure, Search(prove=True))).ok
