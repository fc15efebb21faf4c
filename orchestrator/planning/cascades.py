"""A task's cascades as arms of its selection problem, so that the active set is chosen with them in mind.

A cascade runs where all its experts have an active arm. As an arm of the problem it is worth what its links say, takes
the joules of its stages weighed by the chance that they run, and needs the bytes of all its arms; what is active in the
end are these. An arm that is wanted both by itself and in a cascade is counted twice, so sets are kept within limits;
what then still fits is added without counting twice.

Shape letters: q reference queries, n arms, e experts, r routes, s stages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from optimizer.deciding.model import TaskModel
from optimizer.fitting.logistic import logit
from optimizer.heads.texts import TextHeads, bounded_logit
from optimizer.routes.route import Route
from optimizer.selection.arms import Arm
from optimizer.selection.problem import Problem
from optimizer.selection.utility import BestOf

Floats = NDArray[np.float64]


def with_cascades(problem: Problem, model: TaskModel | None, quality_qe: Floats | None) -> Problem:
    """The problem with an arm for each cascade of the model whose experts have arms in it, each on the cheapest.

    Args:
        problem: Single arms.
        model: What was learned; None where nothing was.
        quality_qe: Its heads' estimates for the queries of the problem, in the order of the model's experts.
    """
    utility = problem.utility
    if model is None or quality_qe is None or not isinstance(utility, BestOf) or not _limited(problem):
        return problem
    cheapest = _cheapest(problem.arms)
    rows = [r for r, one in enumerate(model.routes) if len(one.stages) > 1 and set(one.experts) <= set(cheapest)]
    if not rows:
        return problem
    log_odds_qe = bounded_logit(quality_qe) if isinstance(model.heads, TextHeads) else logit(quality_qe)
    quality_qr, reach_qrs = model.links.estimate_many(log_odds_qe)
    arms, joules = [], []
    for r in rows:
        members = {expert: problem.arms[cheapest[expert]] for expert in model.routes[r].experts}
        joules_q = reach_qrs[:, r, : len(model.routes[r].stages)] @ _stage_joules(model.routes[r], members)
        arms.append(_arm(model.routes[r], members, joules_q, routed=problem.routing is not None))
        joules.append(joules_q)
    energy_qn = np.column_stack([problem.run_energy_qn, *joules]) if problem.routing is not None else None
    wide = BestOf(np.column_stack([utility.quality_qn, quality_qr[:, rows]]))
    return replace(problem, arms=(*problem.arms, *arms), utility=wide, energy_qn=energy_qn)


def parts_of(problem: Problem, active: Sequence[int], singles: Sequence[Arm]) -> tuple[int, ...]:
    """The single arms that a set of arms and cascades needs, by index among these."""
    place = {arm.name: n for n, arm in enumerate(singles)}
    return tuple(sorted({place[part.name] for n in active for part in problem.arms[n].parts}))


def _limited(problem: Problem) -> bool:
    """Whether something keeps arms from being active; else all are, and with them all cascades."""
    return problem.routing is not None or not problem.fits(tuple(range(len(problem.arms))))


def _cheapest(arms: Sequence[Arm]) -> dict[str, int]:
    found: dict[str, int] = {}
    for n, arm in enumerate(arms):
        if arm.expert not in found or arm.energy_j < arms[found[arm.expert]].energy_j:
            found[arm.expert] = n
    return found


def _stage_joules(route: Route, members: Mapping[str, Arm]) -> Floats:
    return np.array([sum(members[expert].energy_j for expert in stage) for stage in route.stages])


def _arm(route: Route, members: Mapping[str, Arm], joules_q: Floats, *, routed: bool) -> Arm:
    parts = tuple(members.values())
    return Arm(
        name=f"{route.name} @ {'+'.join(part.name for part in parts)}",
        expert=route.name,
        node="+".join(dict.fromkeys(part.node for part in parts)),
        energy_j=float(joules_q.mean()) if routed else sum(part.energy_j for part in parts),
        latency_ms=sum(max(members[expert].latency_ms for expert in stage) for stage in route.stages),
        memory_bytes=sum(part.memory_bytes for part in parts),
        members=parts,
    )
