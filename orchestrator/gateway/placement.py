"""Tensor queries that may run on certain nodes only."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.errors import RequestError
from orchestrator.fleet.arms import ArmBoard, ArmState
from orchestrator.planning.planner import Standing
from orchestrator.routing.model import AnnouncedModel
from orchestrator.routing.plan import NO_CERTIFICATE, Plan
from orchestrator.types import Query


@dataclass(frozen=True)
class Placement:
    """The arms of a query's task, by whether they are where it may run.

    Args:
        expert: The only expert that it wants; None for any.
        fitting: Arms there, of that expert.
        others: Indices of all other arms of the task.
    """

    expert: str | None
    fitting: tuple[ArmState, ...]
    others: frozenset[int]

    def shape(self, standing: Standing, board: ArmBoard) -> Standing:
        """The plan in force; where none of its routes stays on those nodes, all arms there, as good as announced."""
        table = standing.table
        inside_r = table.avoiding(self.others)
        if self.expert is not None:
            inside_r = inside_r & table.uses(self.expert)
        if not self.fitting or inside_r.any():
            return standing
        quality = {state.arm.expert: state.arm.quality_fraction for state in self.fitting}
        energy = {state.arm.expert: float(board.energy_j_n[state.index]) for state in self.fitting}
        plan = Plan("by-node", AnnouncedModel(quality, energy), None, NO_CERTIFICATE)
        return Standing(plan, plan.table(list(self.fitting), board))


def placement_of(query: Query, board: ArmBoard) -> Placement:
    """Where a query may run.

    Raises:
        RequestError: CAPABILITY_MISSING where no such node has an arm of its task, or of the expert that it wants.
    """
    arms = board.arms(query.task.name)
    there = [state for state in arms if not query.allowed_nodes or state.arm.node in query.allowed_nodes]
    fitting = tuple(state for state in there if query.expert in (None, state.arm.expert))
    if arms and not fitting:
        text = "No connected node that this request allows has such an expert for its task."
        raise RequestError("CAPABILITY_MISSING", text, field="allowed_nodes")
    kept = {state.index for state in there}
    return Placement(query.expert, fitting, frozenset(state.index for state in arms if state.index not in kept))
