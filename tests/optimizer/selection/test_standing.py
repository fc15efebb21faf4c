"""What a plan that stands does at its edges; that it is exact is checked in `tests/property/test_standing.py`."""

from __future__ import annotations

import numpy as np
import pytest

from optimizer.errors import ProblemError
from optimizer.selection.arms import Limits
from optimizer.selection.certify import certify
from optimizer.selection.exact import Search
from optimizer.selection.problem import Problem
from optimizer.selection.solution import Status
from optimizer.selection.standing import StandingPlan
from optimizer.selection.utility import BestOf, Table
from tests.optimizer.selection.problems import arms_with, equal_weights, shared_memory, specialists, trap


def test_an_arm_that_becomes_affordable_is_taken() -> None:
    with StandingPlan(trap()) as plan:
        assert plan.solution.active == (1,)
        assert plan.drift(1, energy_j=10.5).active == (0,)
        assert plan.drift(1, energy_j=9.0).active == (0, 1)
        assert plan.problem.arms[1].energy_j == 9.0


def test_no_arm_fits_any_more_and_then_one_does() -> None:
    utility = BestOf(np.array([[1.0]]))
    with StandingPlan(Problem(arms_with([1.0]), utility, equal_weights(utility), Limits(energy_j=1.0))) as plan:
        assert plan.drift(0, energy_j=1.1).status is Status.INFEASIBLE
        assert plan.drift(0, energy_j=1.0).active == (0,)


def test_an_arm_that_loses_its_stand_in_comes_back() -> None:
    """Arm 0 is nowhere better than arm 1, and then on one query it is."""
    utility = BestOf(np.array([[0.5, 0.6, 0.1], [0.5, 0.6, 0.9]]))
    problem = Problem(arms_with([1.0, 1.0, 1.0]), utility, equal_weights(utility), Limits(active=1))
    with StandingPlan(problem, Search(prove=True)) as plan:
        assert plan.solution.active == (1,)
        found = plan.drift(1, worth_q=np.array([0.3, 0.6]))
        assert found.active == (0,) or found.objective == pytest.approx(0.5)
        assert certify(plan.problem, found).ok


def test_energy_that_nothing_limited_does_once_it_is_more() -> None:
    utility = BestOf(np.array([[0.5, 1.0], [1.0, 0.5]]))
    problem = Problem(arms_with([1.0, 1.0]), utility, equal_weights(utility), Limits(energy_j=2.5))
    with StandingPlan(problem) as plan:
        assert plan.drift(0, energy_j=1.4).active == (0, 1)
        assert len(plan.drift(0, energy_j=1.6).active) == 1


def test_a_proof_is_given_when_it_is_asked_for() -> None:
    with StandingPlan(specialists()) as plan:
        assert plan.drift(0, worth_q=np.array([0.4, 0.4, 0.0])).proof is None
        assert plan.proven().proof is not None
        assert certify(plan.problem, plan.proven()).ok


@pytest.mark.parametrize("problem", [shared_memory(), specialists()])
def test_a_closed_plan_still_answers(problem: Problem) -> None:
    plan = StandingPlan(problem)
    plan.close()
    plan.close()
    before = plan.solution.objective
    assert plan.drift(0, energy_j=0.0).objective >= before
    plan.close()


def test_the_callers_column_is_not_kept() -> None:
    column_q = np.array([0.3])
    with StandingPlan(trap()) as plan:
        plan.drift(0, worth_q=column_q)
        column_q[0] = 0.9
        assert plan.problem.value((0,)) == 0.3


@pytest.mark.parametrize(
    ("arm", "worth_q", "energy_j"),
    [
        (3, None, 1.0),
        (-1, None, 1.0),
        (0, None, -1.0),
        (0, None, float("nan")),
        (0, [0.1, 0.1], None),
        (0, [0.1, 0.1, -0.1], None),
        (0, [0.1, 0.1, float("nan")], None),
        (0, [0.1, 0.1, float("inf")], None),
        (0, [0.1, 0.1, 1.1], None),
    ],
)
def test_what_cannot_be_meant_is_refused_and_changes_nothing(
    arm: int, worth_q: list[float] | None, energy_j: float | None
) -> None:
    with StandingPlan(specialists()) as plan:
        before = plan.solution
        with pytest.raises(ProblemError):
            plan.drift(arm, worth_q=None if worth_q is None else np.array(worth_q), energy_j=energy_j)
        assert plan.solution is before
        assert plan.problem.arms == specialists().arms


def test_a_table_has_no_column() -> None:
    utility = Table(np.array([[0.0, 0.5, 0.6, 1.0]]))
    with StandingPlan(Problem(arms_with([1.0, 1.0]), utility, equal_weights(utility), Limits(energy_j=1.0))) as plan:
        assert plan.solution.active == (1,)
        assert plan.drift(1, energy_j=2.0).active == (0,)
        with pytest.raises(ProblemError, match="table"):
            plan.drift(0, worth_q=np.array([1.0]))
