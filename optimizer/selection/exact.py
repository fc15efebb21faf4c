"""From a problem to the compiled solver and back.

Costs are scaled so that every limit is 1, and worths so that all arms together are worth 1: what the solver calls equal
does not depend on the user's units.

Shape letters: q queries, n arms of the problem, e eligible arms, k set costs, d dual vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from optimizer.native.select import Found, Instance, Settings, Tree, head, padded, select
from optimizer.native.whole import Answer, Stated, solve_whole, take_in
from optimizer.selection.filling import filled
from optimizer.selection.problem import ROUNDING, Mode, Problem
from optimizer.selection.proof import BRANCH, DOMINATED, DOMINATOR, Proof
from optimizer.selection.solution import Solution, Status
from optimizer.selection.utility import AnyRight, BestOf, Bools, Floats

# Relative to the worth of all arms together.
TOLERANCE = 1e-11


@dataclass(frozen=True)
class Search:
    """How far to search.

    Args:
        node_limit: Most boxes to look at; the same limit always gives the same answer.
        should_stop: Asked before each box.
        gap: Boxes within this fraction of the best set's worth are not searched.
        prove: Keep what `certify` needs to check the bound without searching.
    """

    node_limit: int = 5_000_000
    should_stop: Callable[[], bool] | None = None
    gap: float = 0.0
    prove: bool = False


@dataclass(frozen=True)
class Trace:
    """What a later run on nearly the same problem starts from: a tree, in the units that it was made in."""

    tree: Tree
    eligible_e: tuple[int, ...]
    binding_k: tuple[bool, ...]
    any_right: bool
    queries: int
    scale: float


@dataclass(frozen=True)
class Scaled:
    """A problem in the solver's units.

    Args:
        eligible_e: Arms by index in the problem.
        binding_k: Which set costs can be exceeded at all.
        scale: Worth of all eligible arms together.
        instance: What the solver takes.
        price_unit: Which multiplier is that of energy, and its unit; None where energy is not limited.
    """

    eligible_e: tuple[int, ...]
    binding_k: Bools
    scale: float
    instance: Instance
    price_unit: tuple[int, float] | None


def solve_exact(problem: Problem, search: Search, *, warm: Solution | None = None) -> Solution:
    """The best active set of a best-of or any-right problem, with its certificate.

    Args:
        problem: Mode ``worst_case`` with either utility, or ``routed`` with best-of.
        search: How far to go.
        warm: The solution of nearly the same problem; with a proof, its tree is walked instead of built anew.

    Raises:
        NativeMissing: The compiled solver is not built here.

    Cost: 0.1 ms at 20 arms × 15 queries, 1 ms at 100 × 60 (`tests/bench/bench_solver.py`).
    """
    if problem.mode is Mode.WORST_CASE and warm is None and not search.prove:
        return _at_once(problem, search)
    if not problem.eligible:
        return Solution(Status.INFEASIBLE, (), 0.0, 0.0, 0)
    scaled = scaled_problem(problem, warm.trace.scale if warm and isinstance(warm.trace, Trace) else None)
    if scaled.scale <= 0.0:
        return filled(problem, Solution(Status.OPTIMAL, (problem.eligible[0],), 0.0, 0.0, 1))
    settings = settings_of(search)
    start, old = _warm_start(scaled, problem, warm)
    return filled(problem, solution_of(problem, scaled, select(scaled.instance, settings, start=start, old=old)))


def _at_once(problem: Problem, search: Search) -> Solution:
    """Nothing is kept, so that nothing has to be made in Python but the answer."""
    answer = solve_whole(_stated(problem), settings_of(search))
    return Solution(Status.INFEASIBLE, (), 0.0, 0.0, 0) if answer is None else solution_in(problem, answer)


def solution_in(problem: Problem, answer: Answer) -> Solution:
    """What the compiled solver found where it answers in the problem's terms; of the problem, only limits are used."""
    status = Status.OPTIMAL if answer.optimal else Status.FEASIBLE
    # The price is that of the first limit, whichever that is.
    price_per_j = answer.price if problem.limits.energy_j else 0.0
    return Solution(status, answer.active, answer.objective, answer.bound, answer.explored, price_per_j=price_per_j)


def _stated(problem: Problem) -> Stated:
    utility, costs = problem.utility, problem.set_costs
    assert isinstance(utility, AnyRight | BestOf)
    any_right = isinstance(utility, AnyRight)
    return Stated(
        utility.right_qn if isinstance(utility, AnyRight) else utility.quality_qn,
        any_right,
        problem.allowed_qn if problem.has_latency_limits else None,
        problem.weights_q,
        costs.cost_kn,
        costs.limit_k,
        np.array([arm.energy_j for arm in problem.arms]) if problem.limits.energy_j is None else costs.cost_kn[0],
    )


def settings_of(search: Search) -> Settings:
    """How far to search, as the compiled solver takes it."""
    return Settings(ROUNDING, TOLERANCE, search.gap, search.node_limit, search.should_stop, search.prove)


def scaled_problem(problem: Problem, known: float | None = None) -> Scaled:
    """The problem in the solver's units; a known scale keeps the units of an earlier run."""
    if problem.routing is not None:
        return _scaled_routed(problem, known)
    taken = take_in(_stated(problem), settings_of(Search()), known=known)
    binding_k = np.zeros(len(problem.set_costs.limit_k), dtype=bool)
    binding_k[taken.binding_b] = True
    any_right = isinstance(problem.utility, AnyRight)
    weight_q = taken.weight_q if any_right else None
    instance = Instance(taken.worth_eq, taken.share_eb, None, weight_q, any_right=any_right)
    price_unit = _price_unit(problem, binding_k, taken.scale)
    return Scaled(tuple(taken.eligible_e), binding_k, taken.scale, instance, price_unit)


def _scaled_routed(problem: Problem, known: float | None) -> Scaled:
    utility, routing, costs, eligible = problem.utility, problem.routing, problem.set_costs, list(problem.eligible)
    assert isinstance(utility, BestOf)
    assert routing is not None
    values_qe = np.where(problem.allowed_qn, utility.quality_qn, 0.0)[:, eligible]
    cost_ke = costs.cost_kn[:, eligible]
    binding_k = np.asarray((costs.limit_k > 0.0) & (cost_ke.sum(axis=1) > costs.limit_k))
    cost_ek = np.divide(cost_ke[binding_k].T, costs.limit_k[binding_k], order="C")
    worth_eq = np.multiply(values_qe.T, problem.weights_q, order="C")
    joules_eq, free = _joules(problem, eligible), routing.mean_energy_j <= 0.0
    if free:
        # Only what costs nothing may run.
        worth_eq = np.where(joules_eq > 0.0, 0.0, worth_eq)
    scale = known or float(worth_eq.max(axis=0).sum())
    worth_eq /= scale or 1.0
    instance = Instance(worth_eq, cost_ek, None if free else joules_eq)
    return Scaled(tuple(eligible), binding_k, scale, instance, _price_unit(problem, binding_k, scale))


def _joules(problem: Problem, eligible: list[int]) -> Floats:
    """Share of the mean limit that an arm takes on each query; plain weighted joules where the limit is 0."""
    assert problem.routing is not None
    joules_qe = np.where(problem.allowed_qn, problem.run_energy_qn, 0.0)[:, eligible]
    joules_qe = problem.weights_q[:, None] * joules_qe / (problem.routing.mean_energy_j or 1.0)
    return np.ascontiguousarray(joules_qe.T)


def solution_of(problem: Problem, scaled: Scaled, found: Found) -> Solution:
    """What the compiled solver found, in the problem's units; of the problem, only limits and sizes are looked at."""
    active = tuple(scaled.eligible_e[e] for e in found.active)
    objective, bound = found.objective * scaled.scale, found.bound * scaled.scale
    done = found.bound - found.objective <= 2.0 * TOLERANCE
    return Solution(
        Status.OPTIMAL if done else Status.FEASIBLE,
        active,
        objective,
        max(bound, objective),
        found.explored,
        solver="exact",
        price_per_j=_price(scaled, found),
        proof=None if found.tree is None else _proof(problem, scaled, found.tree),
        trace=None if found.tree is None else _trace(scaled, found.tree),
    )


def _trace(scaled: Scaled, tree: Tree) -> Trace:
    instance, binding_k = scaled.instance, tuple(scaled.binding_k.tolist())
    queries = instance.worth_nq.shape[1]
    return Trace(tree, scaled.eligible_e, binding_k, instance.any_right, queries, scaled.scale)


def _price_unit(problem: Problem, binding_k: Bools, scale: float) -> tuple[int, float] | None:
    """Which multiplier of the solver is that of energy, and what it is worth in quality per joule."""
    if problem.routing is not None:
        limit_j = problem.routing.mean_energy_j
        return (0, scale / limit_j) if limit_j > 0.0 else None
    names = [name for name, binds in zip(problem.set_costs.name_k, binding_k, strict=True) if binds]
    if "energy_j" not in names or not problem.limits.energy_j:
        return None
    return 1 + names.index("energy_j"), scale / problem.limits.energy_j


def _price(scaled: Scaled, found: Found) -> float:
    """Quality that one more joule would add, by the relaxation of the root."""
    if scaled.price_unit is None:
        return 0.0
    multiplier, unit = scaled.price_unit
    return float(found.price[multiplier]) * unit


def _factors(problem: Problem, scaled: Scaled) -> tuple[float, Floats]:
    """What a price and each binding multiplier of the solver is worth in the problem's units."""
    limit_j = 0.0 if problem.routing is None else problem.routing.mean_energy_j
    return scaled.scale / (limit_j or 1.0), scaled.scale / problem.set_costs.limit_k[scaled.binding_k]


def _proof(problem: Problem, scaled: Scaled, tree: Tree) -> Proof:
    arm_e = np.array(scaled.eligible_e, dtype=np.int32)
    names_arm_t = np.isin(tree.kind_t, (BRANCH, DOMINATED, DOMINATOR))
    index_t = tree.index_t.copy()
    index_t[names_arm_t] = arm_e[tree.index_t[names_arm_t]]
    per_j, per_cost_k = _factors(problem, scaled)
    binding, costs, first = np.flatnonzero(scaled.binding_k), len(problem.set_costs.limit_k), head(len(per_cost_k))
    price_dk = np.zeros((len(tree.dual_d), 1 + costs))
    price_dk[:, 0] = tree.dual_d[:, 0] * per_j
    price_dk[:, 1 + binding] = tree.dual_d[:, 1 : 1 + len(binding)] * per_cost_k
    levels = tree.dual_d[:, first:]
    if not scaled.instance.any_right:
        return Proof(tree.kind_t, index_t, price_dk, levels[:, : problem.utility.queries] * scaled.scale)
    points = padded(len(arm_e))
    point_dn = np.zeros((len(levels), len(problem.arms)))
    point_dn[:, arm_e] = levels[:, : len(arm_e)]
    return Proof(tree.kind_t, index_t, price_dk, point_dn, levels[:, points : points + problem.utility.queries])


def _warm_start(scaled: Scaled, problem: Problem, warm: Solution | None) -> tuple[tuple[int, ...], Tree | None]:
    """The old set, as far as it still fits, and the old tree where it speaks of the same arms and costs."""
    if warm is None:
        return (), None
    place = {arm: e for e, arm in enumerate(scaled.eligible_e)}
    start = tuple(place[arm] for arm in warm.active if arm in place)
    fits = problem.set_costs.fits(tuple(scaled.eligible_e[e] for e in start))
    return start if fits else (), _old_tree(scaled, warm)


def _old_tree(scaled: Scaled, warm: Solution) -> Tree | None:
    trace = warm.trace
    if not isinstance(trace, Trace) or trace.eligible_e != scaled.eligible_e:
        return None
    same = trace.binding_k == tuple(scaled.binding_k.tolist()) and trace.any_right == scaled.instance.any_right
    return trace.tree if same and trace.queries == scaled.instance.worth_nq.shape[1] else None
