"""Checks a solution without trusting whoever made it.

Nothing of the solver is used: feasibility and objective are computed anew, and the bound is proven by a search of its
own, which asks "is there a feasible set above the claimed bound?" and prunes by other arguments than the solver (the
top corner of the box, and single-arm gains).

Shape letters: q queries, n arms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.problem import Problem
from optimizer.solution import Solution, Status, Verdict

Floats = NDArray[np.float64]

TOLERANCE = 1e-9
PROOF_NODES = 50_000


def certify(problem: Problem, solution: Solution, *, proof_nodes: int = PROOF_NODES) -> Verdict:
    """Re-check feasibility, objective, status and bound.

    Args:
        problem: What was to be solved.
        solution: What the solver claims.
        proof_nodes: Most boxes of the proof that no set beats the bound.

    Returns:
        `ok` only where every claim is proven; otherwise each claim that is wrong or could not be proven.
    """
    reasons = _well_formed(problem, solution) or [*_wrong_claims(problem, solution)]
    if not reasons and solution.status is not Status.INFEASIBLE:
        reasons += _unproven_bound(problem, solution, proof_nodes)
    return Verdict(not reasons, tuple(reasons))


def _well_formed(problem: Problem, solution: Solution) -> list[str]:
    if any(not 0 <= n < len(problem.arms) for n in solution.active):
        return ["The active set names an arm that the problem does not have."]
    if len(set(solution.active)) != len(solution.active):
        return ["The active set names an arm twice."]
    if not math.isfinite(solution.objective) or not math.isfinite(solution.bound):
        return ["The objective and the bound must be finite."]
    return []


def _wrong_claims(problem: Problem, solution: Solution) -> list[str]:
    reasons = list(_broken_limits(problem, solution.active))
    alone = [n for n in range(len(problem.arms)) if not _broken_limits(problem, (n,))]
    if solution.status is Status.INFEASIBLE:
        return reasons + (["Called infeasible, but an arm fits by itself."] if alone else [])
    if not solution.active:
        reasons.append("The active set is empty, but the problem was not called infeasible.")
    value = _value(problem, solution.active)
    if abs(value - solution.objective) > TOLERANCE * max(1.0, value):
        reasons.append(f"The objective is {value!r}, not {solution.objective!r}.")
    if solution.bound < solution.objective - TOLERANCE:
        reasons.append("The bound is below the objective.")
    if solution.status is Status.OPTIMAL and solution.gap > TOLERANCE * max(1.0, value):
        reasons.append(f"Called optimal with a gap of {solution.gap!r}.")
    return reasons


def _broken_limits(problem: Problem, active: tuple[int, ...]) -> list[str]:
    arms = [problem.arms[n] for n in active]
    broken = []
    energy_j = math.fsum(arm.energy_j for arm in arms)
    if problem.energy_limit_j is not None and energy_j > problem.energy_limit_j * (1.0 + TOLERANCE):
        broken.append(f"The active set takes {energy_j!r} J of {problem.energy_limit_j!r} J.")
    if problem.latency_limit_ms is not None:
        slow = [arm.name for arm in arms if arm.latency_ms > problem.latency_limit_ms]
        broken += [f"Arm {name!r} is slower than the latency limit." for name in slow]
    if problem.max_active is not None and len(arms) > problem.max_active:
        broken.append(f"{len(arms)} arms are active, {problem.max_active} may be.")
    for node, limit_bytes in problem.memory_limit_bytes.items():
        taken_bytes = sum(arm.memory_bytes for arm in arms if arm.node == node)
        if taken_bytes > limit_bytes:
            broken.append(f"Node {node!r} would hold {taken_bytes} bytes of {limit_bytes}.")
    return broken


def _value(problem: Problem, active: tuple[int, ...]) -> float:
    best_q = np.zeros(len(problem.quality_qn))
    for n in active:
        best_q = np.maximum(best_q, problem.quality_qn[:, n])
    return math.fsum((best_q * problem.weights_q).tolist())


@dataclass(frozen=True)
class _Refuted:
    """A feasible set above the bound."""

    active: tuple[int, ...]


def _unproven_bound(problem: Problem, solution: Solution, proof_nodes: int) -> list[str]:
    level = solution.bound + TOLERANCE * max(1.0, solution.bound)
    outcome = _search_above(problem, level, proof_nodes)
    if isinstance(outcome, _Refuted):
        return [f"The bound is {solution.bound!r}, but the set {outcome.active} has more."]
    if not outcome:
        return [f"The bound could not be proven within {proof_nodes} boxes."]
    return []


def _search_above(problem: Problem, level: float, proof_nodes: int) -> _Refuted | bool:
    """A feasible set of more than `level`; `True` if there is none, `False` if the nodes ran out first."""
    alone = [n for n in range(len(problem.arms)) if not _broken_limits(problem, (n,))]
    # Strong arms first: leaving one out then lowers the top corner early, and whole halves of the tree go.
    order = sorted(alone, key=lambda n: -_value(problem, (n,)))
    stack: list[tuple[tuple[int, ...], int]] = [((), 0)]
    nodes = 0
    while stack:
        inside, depth = stack.pop()
        nodes += 1
        if nodes > proof_nodes:
            return False
        rest = [n for n in order[depth:] if not _broken_limits(problem, (*inside, n))]
        if _cannot_exceed(problem, inside, rest, level):
            continue
        if not rest or not _broken_limits(problem, (*inside, *rest)):
            return _Refuted(tuple(sorted((*inside, *rest))))
        depth = order.index(rest[0]) + 1
        stack.append((inside, depth))
        stack.append(((*inside, rest[0]), depth))
    return True


def _cannot_exceed(problem: Problem, inside: tuple[int, ...], rest: list[int], level: float) -> bool:
    """Whether no set between `inside` and `inside + rest` that fits has more utility than `level`."""
    covered_q = problem.quality_qn[:, list(inside)].max(axis=1, initial=0.0)
    value = float(problem.weights_q @ covered_q)
    above_qn = np.maximum(problem.quality_qn[:, rest] - covered_q[:, None], 0.0)
    corner = value + float(problem.weights_q @ above_qn.max(axis=1, initial=0.0))
    if corner <= level or not rest:
        return corner <= level
    gain_n = problem.weights_q @ above_qn
    return value + _most_gain(problem, inside, rest, gain_n) <= level


def _most_gain(problem: Problem, inside: tuple[int, ...], rest: list[int], gain_n: Floats) -> float:
    """Most that single-arm gains add up to, with joules as a fractional knapsack or with places as a count."""
    places = len(rest) if problem.max_active is None else problem.max_active - len(inside)
    most = math.fsum(sorted(gain_n.tolist(), reverse=True)[: max(places, 0)])
    if problem.energy_limit_j is None:
        return most
    left_j = problem.energy_limit_j * (1.0 + TOLERANCE) - sum(problem.arms[n].energy_j for n in inside)
    filled = 0.0
    pairs = [(float(gain), problem.arms[n].energy_j) for gain, n in zip(gain_n, rest, strict=True)]
    for gain, energy_j in sorted(pairs, key=lambda pair: -pair[0] / pair[1] if pair[1] > 0.0 else -math.inf):
        share = 1.0 if energy_j <= left_j else max(left_j, 0.0) / energy_j
        filled += gain * share
        left_j -= energy_j * share
        if share < 1.0:
            break
    return min(most, filled)
