"""One budget of joules shared among tasks: each task's certified plans, the joint allocation, one plan per task.

Runs in the planning process, like the making of plans.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from optimizer.allocation.frontier import frontier
from optimizer.allocation.problem import AllocationProblem, AllocationStatus, ClassPlans
from optimizer.allocation.rounding import round_to_plans, shadow_prices
from optimizer.selection.exact import Search
from optimizer.selection.utility import BestOf
from orchestrator.longrun import Share
from orchestrator.planning.allocating import allocate
from orchestrator.planning.make import NODE_LIMIT, PlanRejected, learned, plan_problem
from orchestrator.planning.snapshot import Snapshot, moved, same_evidence

# Rows of plans stay while no arm's joules have moved by more.
SAME_FRACTION = 0.05
# The last row of each task, in the planning process.
_ROWS: dict[str, tuple[Party, ClassPlans]] = {}


@dataclass(frozen=True)
class Party:
    """One task that shares.

    Args:
        snapshot: Its arms and evidence at this moment.
        announced_n: Quality that each arm announces, for a task without evidence.
        rate_per_s: Its requests per second.
    """

    snapshot: Snapshot
    announced_n: tuple[float, ...]
    rate_per_s: float


@dataclass(frozen=True)
class Shareout:
    """What is to be shared among whom.

    Args:
        parties: Tasks that are asked for.
        budget: Joules per request averaged over all of them, or watts.
        per_request: Which of the two.
    """

    parties: tuple[Party, ...]
    budget: float
    per_request: bool


def share_out(asked: Shareout) -> Mapping[str, Share]:
    """Every task's part.

    Raises:
        PlanRejected: The budget does not cover every task's cheapest answers.
        OptimizerError: A task without any plan that fits, or a solver that failed.

    Cost: a dozen certified solves per task whose arms or evidence have changed, and one allocation.
    """
    problem = AllocationProblem(tuple(map(_plans, asked.parties)), asked.budget, asked.per_request)
    allocation, by = allocate(problem)
    rounded = round_to_plans(problem, allocation)
    if allocation.status is AllocationStatus.INFEASIBLE or rounded is None:
        raise PlanRejected(
            f"the shared budget is {problem.budget_j:.4g} J per request, and the cheapest answers of all tasks take "
            f"{allocation.needed_j:.4g} J"
        )
    prices = shadow_prices(problem, allocation)
    return {
        plans.name: Share(
            energy_j=float(plans.energy_k[k]),
            quality_fraction=float(plans.quality_k[k]),
            points_per_j=price.points_per_j,
            next=price.next,
            gap_fraction=rounded.gap,
            solver=by,
        )
        for plans, k, price in zip(problem.classes, rounded.plan_c, prices, strict=True)
    }


def _plans(party: Party) -> ClassPlans:
    """The task's row of plans; that of last time as long as hardly anything about its arms has changed."""
    task, last = party.snapshot.task, _ROWS.get(party.snapshot.task)
    if last is None or not _like(party, last[0]):
        last = _ROWS[task] = party, _worked_out(party)
    return replace(last[1], share=party.rate_per_s)


def _like(party: Party, other: Party) -> bool:
    mine, theirs = party.snapshot, other.snapshot
    same_limits = (mine.max_active, mine.memory_limit_bytes) == (theirs.max_active, theirs.memory_limit_bytes)
    if not same_limits or party.announced_n != other.announced_n:
        return False
    return not moved(mine.arms, theirs.arms, SAME_FRACTION) and same_evidence(mine.evidence, theirs.evidence)


def _worked_out(party: Party) -> ClassPlans:
    snapshot = replace(party.snapshot, mean_energy_j=0.0)
    problem = plan_problem(snapshot, learned(snapshot))
    if snapshot.evidence is None:
        problem = replace(problem, utility=BestOf(np.array([party.announced_n])))
    return frontier(snapshot.task, party.rate_per_s, problem, search=Search(node_limit=NODE_LIMIT))
