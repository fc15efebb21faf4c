"""Where work may run at all: on the nodes and with the tags that its request asks for, within what its tenant and its
key are bound to. A request can only narrow that, so that what such a tenant sends never leaves the machines that the
operator named; this holds for texts and tensors alike, and for what is tried again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from orchestrator.errors import RequestError
from orchestrator.execution.run import Decide
from orchestrator.fleet.arms import ArmBoard, ArmState
from orchestrator.ledger.spenders import Spender
from orchestrator.planning.planner import Standing
from orchestrator.prefixes import scope_of
from orchestrator.routing.combined import CombinedModel
from orchestrator.routing.model import AnnouncedModel, QualityModel
from orchestrator.routing.plan import NO_CERTIFICATE, Plan
from orchestrator.routing.route import Decision
from orchestrator.routing.turns import spellers, vocabularies
from orchestrator.types import WHOLE, Arm, Limits, Query, TextQuery

AnyQuery = TypeVar("AnyQuery", Query, TextQuery)


@dataclass(frozen=True)
class Placement:
    """Where work may run; no nodes are all nodes. `max_mass` bounds the operating points of pruned experts."""

    allowed_nodes: frozenset[str] = frozenset()
    required_tags: frozenset[str] = frozenset()
    max_mass: float = WHOLE

    @property
    def anywhere(self) -> bool:
        """Whether nothing is excluded."""
        return not self.allowed_nodes and not self.required_tags and self.max_mass >= WHOLE

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
        nodes, tags = both or self.allowed_nodes or other.allowed_nodes, self.required_tags | other.required_tags
        return Placement(nodes, tags, min(self.max_mass, other.max_mass))

    def allows(self, arm: Arm) -> bool:
        """Whether an arm may do it."""
        there = not self.allowed_nodes or arm.node in self.allowed_nodes
        return there and self.required_tags <= arm.tags and (self.max_mass >= WHOLE or arm.mass <= self.max_mass)


ANYWHERE = Placement()


def placement_of(query: Query | TextQuery) -> Placement:
    """Where a query may run, and on which operating points."""
    most = query.max_mass if isinstance(query, Query) else WHOLE
    if not query.allowed_nodes and not query.required_tags and most >= WHOLE:
        return ANYWHERE
    return Placement(query.allowed_nodes, query.required_tags, most)


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

    def bind(self, query: AnyQuery, spender: Spender) -> AnyQuery:
        """The query with what its spender is bound to; of a text also with whom it may share what nodes keep of it.

        Raises:
            RequestError: CAPABILITY_MISSING where it may run nowhere, or has a user whose home may be elsewhere.
        """
        query = _scoped(query, spender)
        if not self._by_scope:
            return query
        bound = self.of(spender)
        if bound.anywhere:
            return query
        if isinstance(query, Query) and query.user:
            raise RequestError(
                "CAPABILITY_MISSING", "This key's work is bound to named nodes and has no users.", field="user"
            )
        both = bound.within(placement_of(query))
        return replace(query, allowed_nodes=both.allowed_nodes, required_tags=both.required_tags)


def _scoped(query: AnyQuery, spender: Spender) -> AnyQuery:
    # Of what is read for vectors nodes keep nothing.
    if isinstance(query, Query) or query.prefix_scope or query.parameters.embed:
        return query
    return replace(query, prefix_scope=scope_of(spender.tenant, query.user))


@dataclass(frozen=True)
class Place:
    """The arms of a query's task.

    Args:
        fitting: Those that may run it.
        unfit: Indices of the others, also of nodes that are away: they may come back before the query has its answer.
        texts: Whether its experts may vote on texts and judge them.
    """

    fitting: tuple[ArmState, ...] = ()
    unfit: frozenset[int] = frozenset()
    texts: bool = False

    def shape(self, standing: Standing, board: ArmBoard) -> Standing:
        """The plan in force; where none of its routes avoids what does not fit, all arms that do fit."""
        if not self.unfit or not self.fitting or standing.table.avoiding(self.unfit).any():
            return standing
        quality = {state.arm.expert: state.arm.quality_fraction for state in self.fitting}
        energy = {state.arm.expert: float(board.energy_j_n[state.index]) for state in self.fitting}
        announced = AnnouncedModel(quality, energy)
        model: QualityModel = announced
        if self.texts:
            arms = [state.arm for state in self.fitting]
            model = CombinedModel(announced, quality, vocabularies=vocabularies(arms), spellers=spellers(arms))
        plan = Plan("by-need", model, None, NO_CERTIFICATE)
        return Standing(plan, plan.table(list(self.fitting), board))


def place_of(query: Query, board: ArmBoard) -> Place:
    """Where a tensor query may run; every arm fits one that may run anywhere.

    Raises:
        RequestError: see `placed`.
    """
    if placement_of(query).anywhere:
        return Place()
    return place(query, placed(query, board), board)


def placed(query: Query | TextQuery, board: ArmBoard) -> list[ArmState]:
    """The arms that can be asked now, are of the expert that a query wants, and where it may run.

    Raises:
        RequestError: CAPABILITY_MISSING where such an expert is elsewhere only, or only at larger masses.
    """
    where, arms = placement_of(query), board.arms(query.task.name)
    if query.expert is not None:
        arms = [state for state in arms if state.arm.expert == query.expert]
    if where.anywhere:
        return arms
    fitting = [state for state in arms if where.allows(state.arm)]
    if arms and where.max_mass < min((state.arm.mass for state in arms), default=0.0):
        text = (
            f"No expert that the request allows has a mass of {where.max_mass:g} or less; the least is "
            f"{min(state.arm.mass for state in arms):g}. Raise max_mass, or leave it out."
        )
        raise RequestError("CAPABILITY_MISSING", text, field="max_mass")
    if arms and not fitting:
        text = "No connected node that this request or its key allows has an expert with the tags that are required."
        raise RequestError(
            "CAPABILITY_MISSING", text, field="allowed_nodes" if where.allowed_nodes else "required_tags"
        )
    return fitting


def place(query: Query | TextQuery, fitting: Sequence[ArmState], board: ArmBoard) -> Place:
    """The arms of a query's task by whether they fit, given those that do of those that can be asked now."""
    where, arms = placement_of(query), board.arms(query.task.name)
    if where.anywhere and len(arms) == len(fitting):
        return Place(tuple(fitting), texts=isinstance(query, TextQuery))
    unfit = _indices(arms) - _indices(fitting)
    if not where.anywhere:
        of_task = (state for state in board.states if state.arm.task == query.task.name)
        unfit |= _indices(state for state in of_task if not where.allows(state.arm))
    unfit = unfit if query.expert is None or fitting else frozenset()
    return Place(tuple(fitting), unfit, texts=isinstance(query, TextQuery))


def _indices(states: Iterable[ArmState]) -> frozenset[int]:
    return frozenset(state.index for state in states)


def among_known(decide: Decide, board: ArmBoard) -> Decide:
    """The same decisions, without arms that are announced from now on: nobody has asked whether they are allowed."""
    known = len(board.states)

    def careful(left: Limits, avoid: frozenset[int]) -> Decision | None:
        return decide(left, avoid | frozenset(range(known, len(board.states))))

    return careful
