"""Where the work of a tenant or a key may run at all: named nodes, and experts with tags. What a request says can only
narrow it, so that prompts of such a tenant never leave the machines that the operator named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.errors import RequestError
from orchestrator.execution.run import Decide
from orchestrator.fleet.arms import ArmBoard
from orchestrator.ledger.spenders import Spender
from orchestrator.routing.route import Decision
from orchestrator.types import Arm, Limits, Query, TextQuery


@dataclass(frozen=True)
class Placement:
    """Where work may run; no nodes are all nodes."""

    allowed_nodes: frozenset[str] = frozenset()
    required_tags: frozenset[str] = frozenset()

    def within(self, other: Placement) -> Placement:
        """Where both allow it.

        Raises:
            RequestError: CAPABILITY_MISSING where that is nowhere.
        """
        both = self.allowed_nodes & other.allowed_nodes
        if self.allowed_nodes and other.allowed_nodes and not both:
            raise RequestError(
                "CAPABILITY_MISSING",
                "This key's work may run on none of the nodes that the request allows; see auth.placement.",
                field="allowed_nodes",
            )
        return Placement(both or self.allowed_nodes or other.allowed_nodes, self.required_tags | other.required_tags)

    def allows(self, arm: Arm) -> bool:
        """Whether an arm may do it."""
        return (not self.allowed_nodes or arm.node in self.allowed_nodes) and self.required_tags <= arm.tags


ANYWHERE = Placement()


class Placements:
    """What the configuration says.

    Args:
        by_scope: Of ``tenant:NAME`` and ``key:ID``.
    """

    def __init__(self, by_scope: Mapping[str, Placement] | None = None) -> None:
        self._by_scope = dict(by_scope or {})

    def of(self, spender: Spender) -> Placement:
        """Where a spender's work may run: where tenant and key both allow it.

        Raises:
            RequestError: see `Placement.within`.
        """
        if not self._by_scope:
            return ANYWHERE
        tenant = self._by_scope.get(f"tenant:{spender.tenant}", ANYWHERE)
        return tenant.within(self._by_scope.get(f"key:{spender.key_id}", ANYWHERE))

    def text(self, query: TextQuery, spender: Spender) -> TextQuery:
        """The query with what its spender is bound to; raises as `of`."""
        bound = self.of(spender)
        if bound == ANYWHERE:
            return query
        asked = Placement(query.allowed_nodes, query.required_tags)
        both = bound.within(asked)
        return replace(query, allowed_nodes=both.allowed_nodes, required_tags=both.required_tags)

    def avoided(self, query: Query, spender: Spender, board: ArmBoard) -> frozenset[int]:
        """The arms of a tensor query's task that may not see it.

        Raises:
            RequestError: CAPABILITY_MISSING where no arm may.
        """
        bound = self.of(spender)
        if bound == ANYWHERE:
            return frozenset()
        if query.user:
            # A user's home may be a node that must not see the input.
            raise RequestError(
                "CAPABILITY_MISSING", "This key's work is bound to named nodes and has no users.", field="user"
            )
        # Also those of nodes that are away: they may come back before the request has its answer.
        of_task = [state for state in board.states if state.arm.task == query.task.name]
        avoided = frozenset(state.index for state in of_task if not bound.allows(state.arm))
        if of_task and len(avoided) == len(of_task):
            text = "No connected node that this key's work may run on serves this task; see auth.placement."
            raise RequestError("CAPABILITY_MISSING", text, field="task")
        return avoided


def among_known(decide: Decide, board: ArmBoard) -> Decide:
    """The same decisions, without arms that are announced from now on: nobody has asked whether they are allowed."""
    known = len(board.states)

    def careful(left: Limits, avoid: frozenset[int]) -> Decision | None:
        return decide(left, avoid | frozenset(range(known, len(board.states))))

    return careful
