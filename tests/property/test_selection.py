"""The selection solver against every set, against a MILP, and its certificate against liars.

The default run solves 500 problems per utility and mode, 100 of each also as a MILP, of any-right 25. All 500 as a MILP
are a step of `make faults` (`tests/faults/milp_agreement.py`); EDGEWISE_MILP_EVERY=1 does the same here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from optimizer.selection.arms import Limits
from optimizer.selection.baselines.exhaustive import solve_exhaustively
from optimizer.selection.certify import certify
from optimizer.selection.exact import Search
from optimizer.selection.problem import Mode, Problem
from optimizer.selection.proof import BRANCH, DEAD, FULL, Proof
from optimizer.selection.solution import Solution, Status
from optimizer.selection.solve import solve
from optimizer.selection.utility import AnyRight, BestOf, Table
from tests.optimizer.selection.problems import arms_with, equal_weights
from tests.property.selection_agreement import TOLERANCE, against_milp
from tests.property.selection_problems import MODES, UTILITIES, make_problem, worth_scale

PROBLEMS = 500
# Which problems also go to the MILP, by utility: cuts in rounds take two seconds.
_ASKED = os.environ.get("EDGEWISE_MILP_EVERY", "")
MILP_EVERY = {utility: int(_ASKED or (20 if utility == "any_right" else 5)) for utility in UTILITIES}

every_pair = pytest.mark.parametrize(("utility", "mode"), [(utility, mode) for utility in UTILITIES for mode in MODES])


def faults(problem: Problem, solution: Solution, exact: Solution) -> Iterator[str]:
    """What is wrong with a solution."""
    if solution.status is not exact.status:
        yield f"{solution.status} instead of {exact.status}"
    if not problem.fits(solution.active):
        yield "breaks a limit"
    if abs(solution.objective - exact.objective) > TOLERANCE * worth_scale(problem):
        yield f"worth {solution.objective!r}, the best set {exact.objective!r}"
    if solution.bound < exact.objective - TOLERANCE * worth_scale(problem):
        yield "the bound is too low"
    yield from certify(problem, solution).reasons


@every_pair
def test_exact_and_certified(utility: str, mode: Mode) -> None:
    wrong = {}
    for seed in range(PROBLEMS):
        problem = make_problem(utility, mode, seed)
        exact = solve_exhaustively(problem)
        for prove in (True, False)[: 1 + (seed % 5 == 0)]:
            found = list(faults(problem, solve(problem, Search(prove=prove)), exact))
            if found:
                wrong[seed] = found
    assert wrong == {}


@every_pair
def test_the_same_as_a_milp(utility: str, mode: Mode) -> None:
    told = {seed: against_milp(make_problem(utility, mode, seed)) for seed in range(0, PROBLEMS, MILP_EVERY[utility])}
    assert {seed: reason for seed, reason in told.items() if reason} == {}


@every_pair
@pytest.mark.parametrize("node_limit", [0, 1, 4])
def test_a_stopped_solver_never_claims_too_little(utility: str, mode: Mode, node_limit: int) -> None:
    for seed in range(40):
        problem = make_problem(utility, mode, seed)
        solution, exact = solve(problem, Search(node_limit=node_limit)), solve_exhaustively(problem)
        slack = TOLERANCE * worth_scale(problem)
        assert solution.objective - slack <= exact.objective <= solution.bound + slack
        assert problem.fits(solution.active)
        again = solve(problem, Search(node_limit=node_limit))
        assert (again.active, again.bound) == (solution.active, solution.bound)


@every_pair
def test_a_gap_that_was_asked_for_is_kept(utility: str, mode: Mode) -> None:
    for seed in range(60):
        problem = make_problem(utility, mode, seed)
        solution, exact = solve(problem, Search(gap=0.1, prove=True)), solve_exhaustively(problem)
        slack = TOLERANCE * worth_scale(problem)
        assert exact.objective <= solution.bound + slack
        assert solution.objective >= exact.objective * 0.89 - slack
        assert certify(problem, solution).ok


@every_pair
def test_a_warm_start_changes_nothing(utility: str, mode: Mode) -> None:
    for seed in range(40):
        problem, other = make_problem(utility, mode, seed), drifted(make_problem(utility, mode, seed))
        before, exact = solve(problem, Search(prove=True)), solve_exhaustively(other)
        warm = solve(other, Search(prove=True), warm=before)
        assert list(faults(other, warm, exact)) == []


def drifted(problem: Problem) -> Problem:
    """The same problem with one arm 5 % costlier."""
    first, *others = problem.arms
    return replace(problem, arms=(replace(first, energy_j=first.energy_j * 1.05), *others))


def test_the_generated_problems_are_worth_solving() -> None:
    for utility in UTILITIES:
        for mode in MODES:
            problems = [make_problem(utility, mode, seed) for seed in range(100)]
            solutions = [solve(problem) for problem in problems]
            assert sum(solution.explored > 1 for solution in solutions) > 25
            assert 2 < sum(solution.status is Status.INFEASIBLE for solution in solutions) < 40
            assert max(len(problem.arms) for problem in problems) >= 9


# ---- liars


def solved(utility: str, mode: Mode, seeds: range) -> Iterator[tuple[Problem, Solution]]:
    """Problems with a solution that has something to lie about."""
    for seed in seeds:
        problem = make_problem(utility, mode, seed)
        solution = solve(problem, Search(prove=True))
        if solution.objective > 0.0:
            yield problem, solution


def lies(problem: Problem, true: Solution) -> Iterator[Solution]:
    """Solutions that claim something wrong."""
    step = 1e-6 * worth_scale(problem)
    arms = len(problem.arms)
    yield replace(true, objective=true.objective + step, bound=true.bound + step)
    yield replace(true, objective=true.objective - step)
    yield replace(true, bound=true.bound - step)
    yield replace(true, bound=float("nan"))
    yield replace(true, objective=float("inf"), bound=float("inf"))
    yield replace(true, bound=true.bound + step)  # optimal with a gap
    yield Solution(Status.INFEASIBLE, (), 0.0, 0.0, 0)
    yield replace(true, active=())
    yield replace(true, active=(*true.active, true.active[-1]))
    yield replace(true, active=(*true.active, arms))
    yield replace(true, active=(-1, *true.active))
    everything = tuple(range(arms))
    if not problem.fits(everything):
        value = problem.value(everything)
        yield replace(true, active=everything, objective=value, bound=value)
    worse = min(((n,) for n in problem.eligible), key=problem.value)
    if problem.value(worse) < true.objective - step:
        yield replace(true, active=worse)
        yield replace(true, active=worse, objective=problem.value(worse), bound=problem.value(worse))


@every_pair
def test_lies_are_found(utility: str, mode: Mode) -> None:
    told = 0
    for problem, true in solved(utility, mode, range(60)):
        assert certify(problem, true).ok
        for lie in lies(problem, true):
            told += 1
            assert not certify(problem, lie).ok, lie
    assert told > 300


def forgeries(proof: Proof, rng: np.random.Generator, arms: int) -> Iterator[Proof]:
    """The proof with every token changed in turn, cut short or repeated, and with every dual vector spoiled in turn."""
    tokens, duals = len(proof.kind_t), len(proof.price_dk)
    for t in range(tokens):
        for kind in range(7):
            kind_t = proof.kind_t.copy()
            kind_t[t] = kind
            yield replace(proof, kind_t=kind_t)
        index_t = proof.index_t.copy()
        index_t[t] = rng.integers(-1, max(arms, duals) + 1)
        yield replace(proof, index_t=index_t)
        keep_t = np.arange(tokens) != t
        yield replace(proof, kind_t=proof.kind_t[keep_t], index_t=proof.index_t[keep_t])
        yield replace(proof, kind_t=proof.kind_t[:t], index_t=proof.index_t[:t])
    for d in range(duals):
        for factor in (-1.0, 0.0, 0.5, 2.0, 1e9, np.nan):
            price_dk, level_d = proof.price_dk.copy(), proof.level_d.copy()
            price_dk[d] *= factor
            yield replace(proof, price_dk=price_dk)
            level_d[d] *= factor
            yield replace(proof, level_d=level_d)
        level_d = proof.level_d.copy()
        level_d[d] = rng.permutation(level_d[d])
        yield replace(proof, level_d=level_d)
        if proof.taken_dq is not None:
            taken_dq = proof.taken_dq.copy()
            taken_dq[d] = rng.integers(-2, arms + 2, taken_dq.shape[1])
            yield replace(proof, taken_dq=taken_dq)


@pytest.mark.parametrize(
    ("utility", "mode"),
    [("best_of", MODES[0]), ("best_of", MODES[1]), ("any_right", MODES[0]), ("any_right", MODES[1])],
)
def test_no_forged_proof_passes_a_bound_that_is_too_low(utility: str, mode: Mode) -> None:
    """Each forged proof comes with a feasible set, its true worth, and a bound below the best set's worth."""
    rng, forged = np.random.default_rng(0), 0
    for problem, true in solved(utility, mode, range(60)):
        worse = min(((n,) for n in problem.eligible), key=problem.value)
        value, step = problem.value(worse), 1e-6 * worth_scale(problem)
        if true.proof is None or value > true.objective - 2.0 * step or len(true.proof.kind_t) > 40:
            continue
        claim = Solution(Status.FEASIBLE, worse, value, true.objective - step, 1)
        for proof in (true.proof, *forgeries(true.proof, rng, len(problem.arms))):
            forged += 1
            with np.errstate(all="ignore"):
                assert not certify(problem, replace(claim, proof=proof)).ok
    assert forged > 1000


@pytest.mark.parametrize("utility", UTILITIES)
def test_a_proof_of_another_problem_is_not_taken(utility: str) -> None:
    """Cheaper arms make better sets feasible: the old proof must not hold for the new problem's bound."""
    for problem, true in solved(utility, Mode.WORST_CASE, range(100)):
        cheaper = replace(problem, limits=replace(problem.limits, energy_j=None))
        better = solve_exhaustively(cheaper)
        step = 1e-6 * worth_scale(problem)
        if better.objective > true.objective + step:
            assert not certify(cheaper, replace(true, status=Status.FEASIBLE, bound=better.objective - step)).ok


def tie() -> Problem:
    """Two arms that fit together but for rounding: 0.1 + 0.2 is more than 0.3."""
    utility = BestOf(np.eye(2))
    return Problem(arms_with([0.1, 0.2]), utility, equal_weights(utility), Limits(energy_j=0.3))


def test_what_fits_but_for_rounding_is_not_dead() -> None:
    tokens = ((BRANCH, 0), (BRANCH, 1), (DEAD, 0), (FULL, 0), (FULL, 0))
    kind_t, index_t = np.array(tokens, dtype=np.int32).T
    forged = Proof(kind_t, index_t, np.zeros((0, 2)), np.zeros((0, 2)))
    assert solve(tie()).active == (0, 1)
    assert not certify(tie(), Solution(Status.OPTIMAL, (0,), 0.5, 0.5, 1, proof=forged)).ok


def test_a_limit_is_broken_by_more_than_rounding() -> None:
    over = replace(tie(), limits=Limits(energy_j=0.3 * (1.0 - 1e-10)))
    assert not certify(over, Solution(Status.OPTIMAL, (0, 1), 1.0, 1.0, 1)).ok


def test_slack_of_limits_does_not_spoil_a_proof() -> None:
    """A found one: with limits 1e-9 wider than they are, this proof missed its bound by 1.2e-9."""
    problem = make_problem("any_right", Mode.WORST_CASE, 2768)
    assert certify(problem, solve(problem, Search(prove=True))).reasons == ()


def test_which_solutions_carry_a_proof() -> None:
    for utility in UTILITIES:
        for mode in MODES:
            for problem, solution in solved(utility, mode, range(30)):
                panels = problem.routing is not None and problem.routing.fanout > 1
                searched = isinstance(problem.utility, Table) or (isinstance(problem.utility, AnyRight) and panels)
                assert (solution.proof is None) == searched
