"""A plan that stands: solved once, then certified anew whenever one arm's quality or energy drifts.

The compiled solver keeps the instance, the best set and the search tree. After a drift every node of the tree keeps its
dual vector: only what the arm adds to each bound is worked out anew, and only boxes that this no longer closes are
searched again.

Shape letters: q queries, n arms of the problem, e eligible arms, k set costs.
"""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType
from typing import Self

import numpy as np

from optimizer.errors import ProblemError
from optimizer.native.library import available
from optimizer.native.standing import Standing
from optimizer.selection.arms import sound
from optimizer.selection.exact import Search, scaled_problem, settings_of, solution_of
from optimizer.selection.problem import ROUNDING, Mode, Problem
from optimizer.selection.solution import Solution, Status
from optimizer.selection.solve import solve
from optimizer.selection.utility import AnyRight, BestOf, Floats, Table

# Worths are compared in units of what all arms together were worth; beyond these factors the units are chosen anew.
_LEAST_WORTH, _MOST_WORTH = 0.25, 4.0


class StandingPlan:
    """The best active set of a problem, kept while its arms drift.

    Mode ``worst_case`` with best-of or any-right stays in the compiled solver. Everything else, and every problem in
    which nothing fits or is worth anything, is solved anew by `solve`, with the solution before as a warm start.

    Args:
        problem: What to solve.
        search: How far to go, at first and after each drift. With `prove`, every solution carries its proof.

    Not for two threads at once. Use it as a context manager, or `close` it, to free the compiled solver's memory early.
    """

    def __init__(self, problem: Problem, search: Search | None = None) -> None:
        self._search = search or Search()
        self._base, self._changed = problem, dict[int, tuple[Floats | None, float | None]]()
        self._live: _Live | None = None
        self._solution = self._anew(None)

    @property
    def problem(self) -> Problem:
        """The problem as it is now. Cost: a copy of its matrix after drifts, once."""
        if self._changed:
            self._base, self._changed = _with(self._base, self._changed), {}
        return self._base

    @property
    def solution(self) -> Solution:
        """The answer to the problem as it is now."""
        return self._solution

    def proven(self) -> Solution:
        """The same with a proof for `certify`, where the solver can give one. Cost: a copy of the tree."""
        if self._solution.proof is None and self._live is not None:
            self._solution = self._answer(self._live, prove=True)
        return self._solution

    def drift(self, arm: int, *, worth_q: Floats | None = None, energy_j: float | None = None) -> Solution:
        """Follow one arm that has become better, worse, cheaper or dearer.

        Args:
            arm: By index in the problem.
            worth_q: Its new column of qualities or chances, (q,); None where it has not changed.
            energy_j: Its new mean joules per run; None where they have not changed.

        Returns:
            As `solve` on the changed problem would; `explored` counts the boxes that were searched again, and is 0
            where the tree before still proves the answer.

        Raises:
            ProblemError: No such arm, a column of another shape, values that are not finite, negative, or with
                any-right beyond 1, or a column for a table.

        Cost: 0.02 to 0.1 ms at 100 arms × 60 queries where no box opens, otherwise up to that of a cold solve, seldom
            more (`tests/bench/solver_drift.py`).
        """
        worth_q = None if worth_q is None else _column(self._base, worth_q)
        _check(self._base, arm, energy_j)
        column_q, joules = self._changed.get(arm, (None, None))
        self._changed[arm] = column_q if worth_q is None else worth_q, joules if energy_j is None else energy_j
        if self._live is not None and self._live.drift(arm, worth_q, energy_j):
            self._solution = self._answer(self._live, prove=self._search.prove)
        else:
            self._solution = self._anew(self._solution)
        return self._solution

    def close(self) -> None:
        """Free the compiled solver's memory; a later drift solves anew."""
        if self._live is not None:
            self._live.close()
        self._live = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _anew(self, before: Solution | None) -> Solution:
        self.close()
        self._live = _Live.of(self.problem, self._search)
        if self._live is None:
            # The tree is what the next warm start begins with.
            return solve(self.problem, replace(self._search, prove=True), warm=before)
        return self._answer(self._live, prove=self._search.prove)

    def _answer(self, live: _Live, *, prove: bool) -> Solution:
        """Where the search was stopped, arms that were only added because they fit may add something."""
        found = live.solution(prove=prove)
        if found.status is not Status.FEASIBLE:
            return found
        objective = self.problem.value(found.active)
        return replace(found, objective=objective, bound=max(found.bound, objective))


class _Live:
    """A problem in the compiled solver's memory, as long as its eligible arms and binding costs stay the same."""

    def __init__(self, problem: Problem, search: Search) -> None:
        self._problem, self._scaled = problem, scaled_problem(problem)
        scaled = self._scaled
        self._place = {arm: e for e, arm in enumerate(scaled.eligible_e)}
        self._energy_e = np.array([problem.arms[n].energy_j for n in scaled.eligible_e])
        self._limit_j = problem.limits.energy_j
        # Energy is the first of the problem's costs, and so the first of the solver's where it binds.
        self._binds = self._limit_j is not None and bool(scaled.binding_k[0])
        self._cost_ek = np.ascontiguousarray(scaled.instance.cost_nk)
        self._allowed_nq = np.ascontiguousarray(problem.allowed_qn.T)
        self._weighted = not isinstance(problem.utility, AnyRight)
        self._standing = Standing(scaled.instance, settings_of(search), self._energy_e)

    @classmethod
    def of(cls, problem: Problem, search: Search) -> _Live | None:
        """None where the compiled solver cannot keep the problem."""
        supported = problem.mode is Mode.WORST_CASE and not isinstance(problem.utility, Table) and available()
        if not supported or not problem.eligible or problem.value(problem.eligible) <= 0.0:
            return None
        return cls(problem, search)

    def solution(self, *, prove: bool) -> Solution:
        """The answer to the problem as it is now."""
        return solution_of(self._problem, self._scaled, self._standing.found(keep=prove))

    def drift(self, arm: int, worth_q: Floats | None, energy_j: float | None) -> bool:
        """Follow the drift; false where the problem has to be taken in anew."""
        place = self._place.get(arm)
        if place is None:
            return not self._becomes_eligible(arm, energy_j)
        if energy_j is not None and not self._takes(place, energy_j):
            return False
        if worth_q is not None:
            self._put_worth(arm, worth_q)
        cost = energy_j is not None and self._binds
        if cost:
            self._standing.cost_k[:] = self._cost_ek[place]
        order = float(self._energy_e[place])
        total = self._standing.drift(place, worth=worth_q is not None, cost=cost, order=order)
        return _LEAST_WORTH < total < _MOST_WORTH

    def close(self) -> None:
        """Free its memory."""
        self._standing.close()

    def _takes(self, place: int, energy_j: float) -> bool:
        """Note an arm's energy; false where that changes which arms are eligible, or which costs bind."""
        self._energy_e[place] = energy_j
        if self._limit_j is None:
            return True
        if self._binds:
            self._cost_ek[place, 0] = energy_j / self._limit_j
        fits = energy_j <= self._limit_j * (1.0 + ROUNDING)
        return fits and (self._binds or float(self._energy_e.sum()) <= self._limit_j)

    def _becomes_eligible(self, arm: int, energy_j: float | None) -> bool:
        """Whether nothing but its energy kept an arm out, and no longer does."""
        costs = self._problem.set_costs
        if energy_j is None or self._limit_j is None or energy_j > self._limit_j * (1.0 + ROUNDING):
            return False
        fits_k = costs.cost_kn[1:, arm] <= costs.limit_k[1:] * (1.0 + ROUNDING)
        return bool(fits_k.all() and self._allowed_nq[arm].any())

    def _put_worth(self, arm: int, worth_q: Floats) -> None:
        """A column in the solver's units, by the same operations as `scaled_problem`, so that ties stay ties."""
        row_q = self._standing.worth_q
        np.multiply(worth_q, self._allowed_nq[arm], out=row_q)
        if self._weighted:
            np.multiply(self._problem.weights_q, row_q, out=row_q)
            np.divide(row_q, self._scaled.scale, out=row_q)


def _with(problem: Problem, changed: dict[int, tuple[Floats | None, float | None]]) -> Problem:
    arms, utility = list(problem.arms), problem.utility
    for n, (_, energy_j) in changed.items():
        arms[n] = arms[n] if energy_j is None else replace(arms[n], energy_j=energy_j)
    columns = {n: worth_q for n, (worth_q, _) in changed.items() if worth_q is not None}
    if columns and not isinstance(utility, Table):
        matrix_qn = (utility.right_qn if isinstance(utility, AnyRight) else utility.quality_qn).copy()
        for n, worth_q in columns.items():
            matrix_qn[:, n] = worth_q
        utility = AnyRight(matrix_qn) if isinstance(utility, AnyRight) else BestOf(matrix_qn)
    return replace(problem, arms=tuple(arms), utility=utility)


def _column(problem: Problem, worth_q: Floats) -> Floats:
    """A copy, checked."""
    if isinstance(problem.utility, Table):
        raise ProblemError("A table has no column of one arm.")
    column_q = np.array(worth_q, dtype=np.float64)
    if column_q.shape != (problem.utility.queries,):
        raise ProblemError(f"worth_q must have shape ({problem.utility.queries},), not {column_q.shape}.")
    highest = 1.0 if isinstance(problem.utility, AnyRight) else np.finfo(np.float64).max
    # Written so that what is not a number fails too.
    if not (column_q.min() >= 0.0 and column_q.max() <= highest):
        raise ProblemError("worth_q must be finite and at least 0, and with any-right at most 1.")
    return column_q


def _check(problem: Problem, arm: int, energy_j: float | None) -> None:
    if not 0 <= arm < len(problem.arms):
        raise ProblemError(f"The problem has {len(problem.arms)} arms; there is no arm {arm}.")
    if energy_j is not None and not sound(energy_j):
        raise ProblemError(f"Arm {problem.arms[arm].name!r}: energy_j must be finite and at least 0.")
