"""Every feasible set, at most 2^20 of them: the oracle of the tests, and the solver for measured fusions.

Sets are columns; the columns with the next arm are made of those without it, so each arm doubles them.

Mode ``routed``: the value of a set is a linear program, too slow for every set. For any price λ the dual
λE + Σ_q max over panels in S of (worth − λ · joules)⁺ is at least the value of S (weak duality). The set whose dual is
the largest is solved exactly, its price sharpens the duals of all others, until no dual is above the best value.
Nothing but weak duality is assumed, monotonicity neither.

Shape letters: q queries, n eligible arms, k set costs, o options, s sets (bit n of a column's index: arm n is in).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import ProblemError
from optimizer.selection.baselines.ground import Ground, ground_of, infeasible
from optimizer.selection.options import Options
from optimizer.selection.pricing import best_policy
from optimizer.selection.problem import Problem
from optimizer.selection.solution import Solution, Status
from optimizer.selection.utility import BestOf, Bools, Floats, Table

MOST_ARMS = 20
_NAME = "exhaustive"
_CELLS = 1 << 22
# Relative to the worth without any limit.
_TOLERANCE = 1e-12


def solve_exhaustively(problem: Problem) -> Solution:
    """Look at every feasible set.

    Returns:
        `OPTIMAL` or `INFEASIBLE`; `explored` is the number of feasible sets.

    Raises:
        ProblemError: More than 20 arms could be active.

    Cost: q · 2^n; in mode ``routed`` q · n · 2^n a few times.
    """
    ground = ground_of(problem)
    if not ground.arms:
        return infeasible(_NAME)
    if len(ground.arms) > MOST_ARMS:
        raise ProblemError(f"Every set of {len(ground.arms)} arms is too many, {MOST_ARMS} arms may be eligible.")
    feasible_s = _feasible_s(ground)
    if problem.routing is not None:
        return _best_routed(ground, feasible_s)
    value_s = np.where(feasible_s, _value_s(ground), -np.inf)
    return _solution(ground, feasible_s, int(value_s.argmax()))


def _solution(ground: Ground, feasible_s: Bools, best: int) -> Solution:
    active, problem = ground.indices(_members_n(ground, best)), ground.problem
    objective, explored = problem.value(active), int(feasible_s.sum())
    found = Solution(Status.OPTIMAL, active, objective, objective, explored, _NAME)
    if problem.routing is None:
        return found
    return replace(found, price_per_j=best_policy(problem.options(active), problem.routing.mean_energy_j).price_per_j)


def _members_n(ground: Ground, column: int) -> Bools:
    return np.array([column >> n & 1 == 1 for n in range(len(ground.arms))])


def _feasible_s(ground: Ground) -> Bools:
    """Whether each set is non-empty and within every limit, (s,)."""
    taken_ks = np.zeros((len(ground.limit_k), 1))
    for n in range(len(ground.arms)):
        taken_ks = np.concatenate([taken_ks, taken_ks + ground.cost_kn[:, n : n + 1]], axis=1)
    feasible_s = np.asarray((taken_ks <= ground.limit_k[:, None]).all(axis=0))
    feasible_s[0] = False
    return feasible_s


def _chunks(queries: int, sets: int) -> list[slice]:
    """Some queries at a time, so that all sets of them fit into memory."""
    rows = max(1, _CELLS // sets)
    return [slice(start, start + rows) for start in range(0, queries, rows)]


def _value_s(ground: Ground) -> Floats:
    """Mode ``worst_case``: the objective of every set, (s,)."""
    problem, sets = ground.problem, 1 << len(ground.arms)
    value_s = np.zeros(sets)
    for rows in _chunks(problem.utility.queries, sets):
        value_s += problem.weights_q[rows] @ _worth_qs(ground, rows)
    return value_s


def _worth_qs(ground: Ground, rows: slice) -> Floats:
    utility, arms = ground.problem.utility, list(ground.arms)
    allowed_qn = ground.problem.allowed_qn[rows][:, arms]
    if isinstance(utility, Table):
        return _measured_qs(utility.value_qs[rows], allowed_qn, arms)
    if isinstance(utility, BestOf):
        best_qs = np.zeros((len(allowed_qn), 1))
        for quality_q in np.where(allowed_qn, utility.quality_qn[rows][:, arms], 0.0).T:
            best_qs = np.concatenate([best_qs, np.maximum(best_qs, quality_q[:, None])], axis=1)
        return best_qs
    wrong_qs = np.ones((len(allowed_qn), 1))
    for miss_q in np.where(allowed_qn, 1.0 - utility.right_qn[rows][:, arms], 1.0).T:
        wrong_qs = np.concatenate([wrong_qs, wrong_qs * miss_q[:, None]], axis=1)
    return 1.0 - wrong_qs


def _measured_qs(value_qs: Floats, allowed_qn: Bools, arms: list[int]) -> Floats:
    column_qs = np.zeros((len(allowed_qn), 1), dtype=np.int64)
    for n, arm in enumerate(arms):
        bit_q = np.where(allowed_qn[:, n], 1 << arm, 0)
        column_qs = np.concatenate([column_qs, column_qs + bit_q[:, None]], axis=1)
    return np.take_along_axis(value_qs, column_qs, axis=1)


def _best_routed(ground: Ground, feasible_s: Bools) -> Solution:
    routing = ground.problem.routing
    assert routing is not None
    options = ground.problem.options(ground.arms)
    column_o = np.array([sum(1 << ground.arms.index(arm) for arm in panel) for panel in options.panels])
    first = best_policy(options, routing.mean_energy_j)
    upper_s = np.where(feasible_s, _dual_s(ground, options, column_o, first.price_per_j), -np.inf)
    best, objective, tolerance = 0, -np.inf, _TOLERANCE * float(options.worth_qo.max(axis=1).sum())
    while upper_s.max() > objective + tolerance:
        column = int(upper_s.argmax())
        inside_o = (column_o & ~column) == 0
        policy = best_policy(_some(options, inside_o), routing.mean_energy_j)
        upper_s = np.minimum(upper_s, _dual_s(ground, options, column_o, policy.price_per_j))
        upper_s[column] = policy.value
        if policy.value > objective:
            best, objective = column, policy.value
    return _solution(ground, feasible_s, best)


def _some(options: Options, keep_o: Bools) -> Options:
    panels = tuple(panel for panel, keep in zip(options.panels, keep_o, strict=True) if keep)
    return Options(panels, options.worth_qo[:, keep_o], options.energy_qo[:, keep_o])


def _dual_s(ground: Ground, options: Options, column_o: NDArray[np.int64], price: float) -> Floats:
    """λE + Σ_q of the best surplus that any panel of the set has, (s,)."""
    assert ground.problem.routing is not None
    sets = 1 << len(ground.arms)
    dual_s = np.full(sets, price * ground.problem.routing.mean_energy_j)
    for rows in _chunks(len(options.worth_qo), sets):
        surplus_qo = options.worth_qo[rows] - price * options.energy_qo[rows]
        best_qs = np.zeros((len(surplus_qo), sets))
        best_qs[:, column_o] = np.maximum(surplus_qo, 0.0)
        for n in range(len(ground.arms)):
            # Sets without arm n, then those with it.
            pair_qs = best_qs.reshape(len(best_qs), -1, 2, 1 << n)
            np.maximum(pair_qs[:, :, 1], pair_qs[:, :, 0], out=pair_qs[:, :, 1])
        dual_s += best_qs.sum(axis=0)
    return dual_s
