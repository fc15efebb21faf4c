"""Checks a solution without trusting whoever made it.

Nothing of the solvers is used. Feasibility and objective are computed anew. The bound is checked along the proof that
came with the solution (`checker`), and where none came, by a search of its own that asks "is there a feasible set above
the claimed bound?" and prunes by the top corner of a box alone, which needs nothing but monotonicity.

Shape letters: q queries, n arms, k set costs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from optimizer.selection.checker import ProofError, proven_bound
from optimizer.selection.problem import ROUNDING, Mode, Problem
from optimizer.selection.solution import Solution, Status, Verdict
from optimizer.selection.utility import Table

TOLERANCE = 1e-9
PROOF_NODES = 20_000


def certify(problem: Problem, solution: Solution, *, proof_nodes: int = PROOF_NODES) -> Verdict:
    """Re-check feasibility, objective, status and bound.

    Args:
        problem: What was to be solved.
        solution: What the solver claims.
        proof_nodes: Most boxes of the search where the solution has no proof.

    Returns:
        `ok` only where every claim is proven; otherwise each claim that is wrong or could not be proven.

    Cost: with a proof, one evaluation of a linear bound per node of its tree, about 30 µs at 60 arms × 60 queries.
    """
    reasons = _malformed(problem, solution) or _wrong_claims(problem, solution)
    if not reasons and solution.status is not Status.INFEASIBLE:
        reasons = _unproven(problem, solution, proof_nodes)
    return Verdict(not reasons, tuple(reasons))


def _malformed(problem: Problem, solution: Solution) -> list[str]:
    if any(not 0 <= n < len(problem.arms) for n in solution.active):
        return ["The active set names an arm that the problem does not have."]
    if len(set(solution.active)) != len(solution.active):
        return ["The active set names an arm twice."]
    if not math.isfinite(solution.objective) or not math.isfinite(solution.bound):
        return ["The objective and the bound must be finite."]
    return []


def _wrong_claims(problem: Problem, solution: Solution) -> list[str]:
    reasons = broken_limits(problem, solution.active)
    alone = any(not broken_limits(problem, (n,)) for n in range(len(problem.arms)))
    if solution.status is Status.INFEASIBLE:
        return reasons + (["Called infeasible, but an arm fits by itself."] if alone else [])
    if not solution.active:
        reasons.append("The active set is empty, but the problem was not called infeasible.")
    value = problem.value(solution.active)
    margin = TOLERANCE * _scale(problem)
    if abs(value - solution.objective) > margin:
        reasons.append(f"The objective is {value!r}, not {solution.objective!r}.")
    if solution.bound < solution.objective - margin:
        reasons.append("The bound is below the objective.")
    if solution.status is Status.OPTIMAL and solution.gap > margin:
        reasons.append(f"Called optimal with a gap of {solution.gap!r}.")
    return reasons


def broken_limits(problem: Problem, active: tuple[int, ...]) -> list[str]:
    """Limits that a set breaks, one sentence each; sums are exact before they are compared."""
    costs, broken = problem.set_costs, []
    for name, cost_n, limit in zip(costs.name_k, costs.cost_kn, costs.limit_k, strict=True):
        taken = math.fsum(cost_n[list(active)].tolist())
        if taken > limit * (1.0 + 2.0 * ROUNDING):
            broken.append(f"The active set takes {taken!r} of {limit!r} ({name}).")
    slow = [problem.arms[n].name for n in active if not problem.allowed_qn[:, n].any()]
    return broken + [f"Arm {name!r} is slower than the latency limit of every class." for name in slow]


def _scale(problem: Problem) -> float:
    """What a difference is compared with: the worth of all arms together, at most."""
    if isinstance(problem.utility, Table):
        return float(problem.weights_q @ problem.utility.value_qs.max(axis=1)) or 1.0
    everything = problem.utility.worth_q(tuple(range(len(problem.arms))), problem.allowed_qn)
    return float(problem.weights_q @ everything) or 1.0


def _unproven(problem: Problem, solution: Solution, proof_nodes: int) -> list[str]:
    margin = TOLERANCE * _scale(problem)
    if solution.proof is not None:
        try:
            bound = proven_bound(problem, solution.proof)
        except ProofError as error:
            return [f"The proof does not hold: {error}"]
        if bound > solution.bound + margin:
            return [f"The bound is {solution.bound!r}, but the proof only gives {bound!r}."]
        return []
    if problem.mode is Mode.WORST_CASE and not problem.utility.traits.monotone:
        return _unlisted(problem, solution.bound + margin)
    outcome = _search_above(problem, solution.bound + margin, proof_nodes)
    if isinstance(outcome, _Refuted):
        return [f"The bound is {solution.bound!r}, but the set {outcome.active} is worth more."]
    return [] if outcome else [f"The bound could not be proven within {proof_nodes} boxes."]


def _unlisted(problem: Problem, level: float) -> list[str]:
    """A table that is not monotone is small enough to look at every set."""
    for mask in range(1, 1 << len(problem.arms)):
        active = tuple(n for n in range(len(problem.arms)) if mask >> n & 1)
        if problem.value(active) > level and not broken_limits(problem, active):
            return [f"The set {active} is worth more than the bound."]
    return []


@dataclass(frozen=True)
class _Refuted:
    """A feasible set above the bound."""

    active: tuple[int, ...]


def _search_above(problem: Problem, level: float, proof_nodes: int) -> _Refuted | bool:
    """A feasible set of more than `level`; `True` if there is none, `False` if the nodes ran out first."""
    alone = [n for n in range(len(problem.arms)) if not broken_limits(problem, (n,))]
    # Strong arms first: leaving one out then lowers the top corner early, and whole halves of the tree go.
    order = sorted(alone, key=lambda n: -problem.value((n,)))
    stack: list[tuple[tuple[int, ...], int]] = [((), 0)]
    for _ in range(proof_nodes):
        if not stack:
            return True
        inside, depth = stack.pop()
        rest = [n for n in order[depth:] if not broken_limits(problem, (*inside, n))]
        if problem.value((*inside, *rest)) <= level:
            continue
        if not broken_limits(problem, (*inside, *rest)):
            return _Refuted(tuple(sorted((*inside, *rest))))
        depth = order.index(rest[0]) + 1
        stack.append((inside, depth))
        stack.append(((*inside, rest[0]), depth))
    return not stack
