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
from optimizer.native.standing import ANEW, FOLLOWED, REFUSED, Standing, Terms
from optimizer.selection.arms import sound
from optimizer.selection.exact import Search, scaled_problem, settings_of, solution_in, solution_of
from optimizer.selection.problem import ROUNDING, Mode, Problem
from optimizer.selection.solution import Solution
from optimizer.selection.solve import solve
from optimizer.selection.utility import AnyRight, BestOf, Floats, Table


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
            self._solution = self._live.proven()
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
        live = self._live
        followed = ANEW if live is None else live.drift(arm, worth_q, energy_j)
        if followed == REFUSED or (live is None and worth_q is not None and not _sound(self._base, worth_q)):
            raise ProblemError("worth_q must be finite and at least 0, and with any-right at most 1.")
        column_q, joules = self._changed.get(arm, (None, None))
        self._changed[arm] = column_q if worth_q is None else worth_q, joules if energy_j is None else energy_j
        if live is None or followed == ANEW:
            self._solution = self._anew(self._solution)
        else:
            self._solution = live.proven() if self._search.prove else live.solution()
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
        return self._live.proven() if self._search.prove else self._live.solution()


class _Live:
    """A problem in the compiled solver's memory, as long as its eligible arms and binding costs stay the same."""

    def __init__(self, problem: Problem, search: Search) -> None:
        self._problem, self._scaled = problem, scaled_problem(problem)
        scaled, limit_j = self._scaled, problem.limits.energy_j
        self._place = {arm: e for e, arm in enumerate(scaled.eligible_e)}
        terms = Terms(
            scaled.eligible_e,
            np.array([problem.arms[n].energy_j for n in scaled.eligible_e]),
            np.ascontiguousarray(problem.allowed_qn.T[list(scaled.eligible_e)]) if problem.has_latency_limits else None,
            None if isinstance(problem.utility, AnyRight) else problem.weights_q,
            scaled.scale,
            limit_j,
            # Energy is the first of the problem's costs, and so the first of the solver's where it binds.
            binds=limit_j is not None and bool(scaled.binding_k[0]),
        )
        self._standing = Standing(scaled.instance, settings_of(search), terms)

    @classmethod
    def of(cls, problem: Problem, search: Search) -> _Live | None:
        """None where the compiled solver cannot keep the problem."""
        supported = problem.mode is Mode.WORST_CASE and not isinstance(problem.utility, Table) and available()
        if not supported or not problem.eligible or problem.value(problem.eligible) <= 0.0:
            return None
        return cls(problem, search)

    def solution(self) -> Solution:
        """The answer to the problem as it is now."""
        return solution_in(self._problem, self._standing.answer())

    def proven(self) -> Solution:
        """The same with its proof and tree, copied."""
        with_tree = solution_of(self._problem, self._scaled, self._standing.found())
        return replace(self.solution(), proof=with_tree.proof, trace=with_tree.trace)

    def drift(self, arm: int, worth_q: Floats | None, energy_j: float | None) -> int:
        """Follow the drift; how that ends as `Standing.drift` says."""
        place = self._place.get(arm)
        if place is not None:
            return self._standing.drift(place, worth_q=worth_q, energy_j=energy_j)
        if worth_q is not None and not _sound(self._problem, worth_q):
            return REFUSED
        return ANEW if self._becomes_eligible(arm, energy_j) else FOLLOWED

    def close(self) -> None:
        """Free its memory."""
        self._standing.close()

    def _becomes_eligible(self, arm: int, energy_j: float | None) -> bool:
        """Whether nothing but its energy kept an arm out, and no longer does."""
        costs, limit_j = self._problem.set_costs, self._problem.limits.energy_j
        if energy_j is None or limit_j is None or energy_j > limit_j * (1.0 + ROUNDING):
            return False
        fits_k = costs.cost_kn[1:, arm] <= costs.limit_k[1:] * (1.0 + ROUNDING)
        return bool(fits_k.all() and self._problem.allowed_qn[:, arm].any())


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
    """A copy, of the right shape."""
    if isinstance(problem.utility, Table):
        raise ProblemError("A table has no column of one arm.")
    column_q = np.array(worth_q, dtype=np.float64)
    if column_q.shape != (problem.utility.queries,):
        raise ProblemError(f"worth_q must have shape ({problem.utility.queries},), not {column_q.shape}.")
    return column_q


def _sound(problem: Problem, worth_q: Floats) -> bool:
    """Whether a column holds worths. The compiled solver asks the same of an arm that it has."""
    most = 1.0 if isinstance(problem.utility, AnyRight) else np.finfo(np.float64).max
    # Written so that what is not a number fails too.
    return bool(worth_q.min() >= 0.0 and worth_q.max() <= most)


def _check(problem: Problem, arm: int, energy_j: float | None) -> None:
    if not 0 <= arm < len(problem.arms):
        raise ProblemError(f"The problem has {len(problem.arms)} arms; there is no arm {arm}.")
    if energy_j is not None and not sound(energy_j):
        raise ProblemError(f"Arm {problem.arms[arm].name!r}: energy_j must be finite and at least 0.")
