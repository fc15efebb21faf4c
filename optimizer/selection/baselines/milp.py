"""The same problem as a mixed-integer program for HiGHS, through cvxpy: an oracle that shares nothing with our solvers.

=================== ==================================================================================
problem             model; z_n is 1 where arm n is active
=================== ==================================================================================
`BestOf`            facility location: y_qn ≤ z_n, Σ_n y_qn ≤ 1, y continuous, zero worth left out
`AnyRight`          one number per query under submodular cuts, added in rounds
`Table`             one binary per set, z the arms of the chosen one
any, ``routed``     y_qP per query and panel: Σ_P y_qP ≤ 1, Σ over panels with n of y_qP ≤ z_n, mean energy
=================== ==================================================================================

All of them have the rows of the set costs, and Σ_n z_n ≥ 1.

Shape letters: q queries, n eligible arms, k set costs, o options, v variables y, r rows, s sets, g cuts.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from optimizer.errors import SolverMissing
from optimizer.selection.baselines.ground import Ground, ground_of, infeasible
from optimizer.selection.options import Options
from optimizer.selection.pricing import best_policy
from optimizer.selection.problem import Problem
from optimizer.selection.solution import Solution, Status
from optimizer.selection.utility import AnyRight, BestOf, Bools, Floats

_NAME = "milp"
_TOLERANCE = 1e-9
# HiGHS counts a row as kept within 1e-6, so a set may come back that breaks a limit: it is cut off, and again.
_ROUNDS = 200


@dataclass(frozen=True)
class Effort:
    """How long the solver may try.

    Args:
        time_limit_s: For one call of HiGHS.
        gap: Relative gap at which it may stop.
    """

    time_limit_s: float | None = None
    gap: float = 0.0


def solve_by_milp(problem: Problem, effort: Effort | None = None) -> Solution:
    """Ask HiGHS.

    Args:
        problem: Of either mode; few options, a `Table` of few arms: all of them become variables.
        effort: Limits; None for a gap of 0 and no time limit.

    Returns:
        `OPTIMAL`, or `FEASIBLE` when a limit of the effort came first; the objective is computed anew from the set.

    Raises:
        SolverMissing: cvxpy with HiGHS is not installed (extra ``plan``).
    """
    ground = ground_of(problem)
    if not ground.arms:
        return infeasible(_NAME)
    model = _model(ground)
    return _Rounds(ground, model, effort or Effort()).run()


def _cvxpy() -> Any:
    try:
        import cvxpy
    except ImportError as error:
        raise SolverMissing("The MILP baseline needs cvxpy and highspy: install the extra 'plan'.") from error
    return cvxpy


@dataclass
class _Model:
    """What to maximise, and the rows so far; objectives are divided by `scale`."""

    chosen_n: Any
    objective: Any
    rows: list[Any]
    scale: float
    cuts: _Cuts | None = None


@dataclass
class _Cuts:
    """`AnyRight`: worth_q ≤ worth(T) + Σ over n outside T of the gain on top of T · z_n, for every T that came up."""

    right_qn: Floats
    worth_q: Any

    def row(self, model: _Model, at_n: Bools) -> Any:
        wrong_q = (1.0 - self.right_qn[:, at_n]).prod(axis=1)
        gain_qn = wrong_q[:, None] * self.right_qn * ~at_n
        return self.worth_q <= (1.0 - wrong_q) + gain_qn @ model.chosen_n


def _model(ground: Ground) -> _Model:
    cp, utility, problem = _cvxpy(), ground.problem.utility, ground.problem
    chosen_n = cp.Variable(len(ground.arms), boolean=True)
    rows = [cp.sum(chosen_n) >= 1, *_cost_rows(ground, chosen_n)]
    if problem.routing is not None:
        options = _affordable(problem.options(ground.arms), problem.routing.mean_energy_j)
        return _panel_model(ground, options, _Model(chosen_n, None, rows, 1.0), problem.routing.mean_energy_j)
    if isinstance(utility, BestOf):
        arms, zero_qn = list(ground.arms), np.zeros((utility.queries, len(ground.arms)))
        worth_qn = problem.weights_q[:, None] * np.where(problem.allowed_qn, utility.quality_qn, 0.0)[:, arms]
        options = Options(tuple((arm,) for arm in arms), worth_qn, zero_qn)
        return _panel_model(ground, options, _Model(chosen_n, None, rows, 1.0), 0.0)
    if isinstance(utility, AnyRight):
        return _cut_model(ground, utility, chosen_n, rows)
    return _set_model(ground, chosen_n, rows)


def _cost_rows(ground: Ground, chosen_n: Any) -> list[Any]:
    """Set costs as fractions of their limits, so that the solver's tolerance means the same for all."""
    limit_k = np.where(ground.limit_k > 0.0, ground.limit_k, 1.0)
    share_kn = ground.cost_kn / limit_k[:, None]
    return [share_kn @ chosen_n <= 1.0] if len(limit_k) else []


def _affordable(options: Options, limit_j: float) -> Options:
    """Without energy there is no row to scale: what costs anything cannot run."""
    if limit_j > 0.0:
        return options
    return Options(options.panels, np.where(options.energy_qo > 0.0, 0.0, options.worth_qo), 0.0 * options.energy_qo)


def _panel_model(ground: Ground, options: Options, model: _Model, limit_j: float) -> _Model:
    cp, at = _cvxpy(), {arm: n for n, arm in enumerate(ground.arms)}
    query_v, option_v = np.nonzero(options.worth_qo > 0.0)
    model.scale = _scale(options.worth_qo.max(axis=1, initial=0.0).sum())
    if not len(query_v):
        model.objective = 0.0 * model.chosen_n[0]
        return model
    run_v, count = cp.Variable(len(query_v), nonneg=True), len(query_v)
    one_per_query = sp.csr_array((np.ones(count), (query_v, np.arange(count))), (len(options.worth_qo), count))
    model.rows += [one_per_query @ run_v <= 1, *_membership(model.chosen_n, run_v, query_v, option_v, options, at)]
    if limit_j > 0.0:
        model.rows.append((options.energy_qo[query_v, option_v] / limit_j) @ run_v <= 1.0)
    model.objective = (options.worth_qo[query_v, option_v] / model.scale) @ run_v
    return model


def _membership(
    chosen_n: Any, run_v: Any, query_v: Any, option_v: Any, options: Options, at: dict[int, int]
) -> list[Any]:
    """Σ over panels with n of y_qP ≤ z_n: at most one panel runs, so that is as strong as a row per panel, and more."""
    pairs = [
        (v, q, at[arm]) for v, (q, o) in enumerate(zip(query_v, option_v, strict=True)) for arm in options.panels[o]
    ]
    column_p, query_p, arm_p = (np.array(part) for part in zip(*pairs, strict=True))
    key_p, row_p = np.unique(query_p * len(at) + arm_p, return_inverse=True)
    uses = sp.csr_array((np.ones(len(row_p)), (row_p, column_p)), (len(key_p), run_v.size))
    owner = sp.csr_array((np.ones(len(key_p)), (np.arange(len(key_p)), key_p % len(at))), (len(key_p), len(at)))
    return [uses @ run_v <= owner @ chosen_n]


def _cut_model(ground: Ground, utility: AnyRight, chosen_n: Any, rows: list[Any]) -> _Model:
    cp, problem, arms = _cvxpy(), ground.problem, list(ground.arms)
    right_qn = np.where(problem.allowed_qn, utility.right_qn, 0.0)[:, arms]
    worth_q = cp.Variable(utility.queries)
    scale = _scale(problem.weights_q.sum())
    model = _Model(chosen_n, (problem.weights_q / scale) @ worth_q, rows, scale, _Cuts(right_qn, worth_q))
    nothing_n = np.zeros(len(arms), dtype=np.bool_)
    model.rows += [worth_q <= 1.0, model.cuts.row(model, nothing_n)] if model.cuts else []
    return model


def _set_model(ground: Ground, chosen_n: Any, rows: list[Any]) -> _Model:
    cp, count = _cvxpy(), len(ground.arms)
    bit_sn = (np.arange(1, 1 << count)[:, None] >> np.arange(count)) & 1
    value_s = np.array([ground.problem.value(ground.indices(bit_n == 1)) for bit_n in bit_sn])
    picked_s, scale = cp.Variable(len(value_s), boolean=True), _scale(value_s.max())
    rows += [cp.sum(picked_s) == 1, bit_sn.T @ picked_s == chosen_n]
    return _Model(chosen_n, (value_s / scale) @ picked_s, rows, scale)


def _scale(value: float) -> float:
    return float(value) if value > 0.0 else 1.0


@dataclass
class _Rounds:
    """Calls of HiGHS until it returns a set that fits and is worth what it says."""

    ground: Ground
    model: _Model
    effort: Effort
    best: Solution | None = None

    def run(self) -> Solution:
        bound, done = np.inf, False
        for count in range(1, _ROUNDS + 1):
            found_n, upper, exact = self._call()
            if found_n is None:
                # Only sets that do not fit were left, or the time ran out before the first.
                done = exact
                break
            bound = min(bound, upper)
            if not self.ground.fits(found_n):
                self._forbid(found_n)
                continue
            self._keep(found_n, count)
            done = self._settled(bound)
            if done or not exact or self.model.cuts is None:
                break
            self.model.rows.append(self.model.cuts.row(self.model, found_n))
        return self._solution(bound, done)

    def _settled(self, bound: float) -> bool:
        assert self.best is not None
        return bound - self.best.objective <= (self.effort.gap + 10.0 * _TOLERANCE) * self.model.scale

    def _call(self) -> tuple[Bools | None, float, bool]:
        """A set, an upper bound on the objective, and whether the solver finished."""
        cp = _cvxpy()
        task = cp.Problem(cp.Maximize(self.model.objective), self.model.rows)
        options: dict[str, Any] = {"mip_rel_gap": self.effort.gap, "mip_abs_gap": 0.0, "threads": 1}
        if self.effort.time_limit_s is not None:
            options["time_limit"] = self.effort.time_limit_s
        with warnings.catch_warnings():
            # What a time limit leaves open is in the bound.
            warnings.simplefilter("ignore", UserWarning)
            task.solve(solver=cp.HIGHS, **options)
        value_n = self.model.chosen_n.value
        finished = task.status in (cp.OPTIMAL, cp.INFEASIBLE)
        if value_n is None:
            return None, np.inf, finished
        dual = getattr(task.solver_stats.extra_stats, "mip_dual_bound", None)
        upper = task.value if dual is None else max(abs(dual), task.value)
        return np.asarray(value_n > 0.5), float(upper) * self.model.scale, finished

    def _forbid(self, found_n: Bools) -> None:
        """The set breaks a limit by less than the solver's tolerance; so does every larger one."""
        self.model.rows.append(found_n.astype(float) @ self.model.chosen_n <= float(found_n.sum()) - 1.0)

    def _keep(self, found_n: Bools, count: int) -> None:
        active = self.ground.indices(found_n)
        objective = self.ground.problem.value(active)
        if self.best is None or objective > self.best.objective:
            self.best = Solution(Status.FEASIBLE, active, objective, objective, count, _NAME)

    def _solution(self, bound: float, done: bool) -> Solution:
        if self.best is None:
            return Solution(Status.FEASIBLE, (), 0.0, self.model.scale, 1, _NAME)
        objective, routing = self.best.objective, self.ground.problem.routing
        price = 0.0
        if routing is not None:
            options = self.ground.problem.options(self.best.active)
            price = best_policy(options, routing.mean_energy_j).price_per_j
        if done and self.effort.gap == 0.0:
            return replace(self.best, status=Status.OPTIMAL, bound=objective, price_per_j=price)
        return replace(self.best, bound=max(objective, bound), price_per_j=price)
