"""Which route a query takes and what it may spend: budgets, the plan in force, the guard of the gate, a user's own
expert. Nothing here waits.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.frozen import frozen
from orchestrator.budgets import Budgets
from orchestrator.errors import EdgewiseError, RequestError, Unavailable
from orchestrator.execution.run import Decide, bound_of
from orchestrator.fleet.fleet import Fleet
from orchestrator.gateway import texts
from orchestrator.gateway.accounts import Ticket
from orchestrator.gateway.till import Till
from orchestrator.pacing import Pacing
from orchestrator.personal.desk import PersonalDesk
from orchestrator.planning.planner import Planner, Standing
from orchestrator.probing import Probing
from orchestrator.routing.infeasible import RETRY_AFTER_S, kept_out_by, why_infeasible
from orchestrator.routing.model import AnnouncedModel
from orchestrator.routing.pace import Pace
from orchestrator.routing.plan import NO_CERTIFICATE, Plan
from orchestrator.routing.route import Decision, Wish, route
from orchestrator.types import BudgetRequest, Limits, Task, TextQuery


class Decider:
    """Decides for queries.

    Args:
        fleet: Nodes and arms.
        planner: Plans in force.
        budgets: What a request may spend when it does not say.
        till: What its payer's quotas allow one request.
        pacing: Long-run budgets.
        probing: The guard of the gate.
        personal: Users' own experts.
    """

    def __init__(
        self,
        fleet: Fleet,
        planner: Planner,
        *,
        budgets: Budgets,
        till: Till,
        pacing: Pacing,
        probing: Probing,
        personal: PersonalDesk,
    ) -> None:
        self._fleet = fleet
        self.board = fleet.board
        self._demands = texts.Demands(fleet.board)
        self._planner = planner
        self._budgets = budgets
        self._till = till
        self._pacing = pacing
        self.probing = probing
        self._personal = personal

    def demand(self, query: TextQuery) -> texts.Demand:
        """See `texts.Demands.of`."""
        return self._demands.of(query)

    def again(
        self,
        task: Task,
        features_f: NDArray[Any],
        wish: Wish,
        *,
        pace: Pace | None = None,
        shape: texts.Shape | None = None,
    ) -> Decide:
        """Routes what is left of a query around the arms that failed it, on the plan of that later moment."""
        return _Again(self, task, features_f, wish, pace, shape)

    def limit(self, ticket: Ticket, budget: BudgetRequest, deadline_s: float) -> Limits:
        """The limits that hold for a query, noted on the ticket; arguments as of `decide`."""
        return self._limit(ticket, budget, deadline_s, self._till.cap_j(ticket))

    def _limit(self, ticket: Ticket, budget: BudgetRequest, deadline_s: float, cap_j: float) -> Limits:
        limits = self._budgets.resolve(ticket.task, budget, deadline_s)
        if cap_j < limits.max_energy_j:
            limits = replace(limits, max_energy_j=cap_j)
        ticket.limits = limits
        return limits

    def decide(
        self,
        ticket: Ticket,
        features_f: NDArray[Any],
        budget: BudgetRequest,
        *,
        deadline_s: float,
        wish: Wish,
        shape: texts.Shape | None = None,
    ) -> tuple[Decision, Limits]:
        """The route for a query and the limits that hold for it; notes both on the ticket.

        Args:
            ticket: The request.
            features_f: What the gate reads.
            budget: What the client allows.
            deadline_s: Of the call.
            wish: What the client asks of the route.
            shape: Prices the plan in force for this query; None takes it as it stands.

        Raises:
            RequestError: EXPERT_NOT_FOUND.
            BudgetInfeasible: Nothing fits and the client wants an error.
            Unavailable: NO_NODE or OVERLOADED.
        """
        started_s = time.monotonic()
        task = self._fleet.tasks[ticket.task]
        cap_j = self._till.cap_j(ticket)
        limits = self._limit(ticket, budget, deadline_s, cap_j)
        standing = self.standing(task, wish.expert)
        if standing is None:
            raise self._nobody(task, wish.expert)
        if shape is not None:
            standing = shape(standing, self._fleet.board)
        ticket.plan = plan = standing.plan
        pace = self._pacing.arrive(task.name, started_s)
        decision = route(features_f, plan=plan, table=standing.table, limits=limits, wish=wish, pace=pace)
        if self.probing.on and wish.expert is None:
            decision = self._probe(ticket, decision, features_f, wish=wish, standing=standing)
        if ticket.owner is not None:
            decision = self._overlaid(ticket, decision, features_f, wish=wish)
        ticket.decision = decision
        if pace is not None:
            ticket.charge = self._pacing.routed(task.name, decision)
        ticket.route_s = time.monotonic() - started_s
        if decision.route is None:
            self._fleet.board.turned_away(kept_out_by(decision, limits), limits.max_latency_ms / 1000.0)
        # What a quota allows one request holds also for those that ask for the best effort.
        if decision.route is None or (cap_j < math.inf and bound_of(decision) > cap_j):
            raise why_infeasible(decision, limits)
        return decision, limits

    def _probe(
        self,
        ticket: Ticket,
        gate: Decision,
        features_f: NDArray[Any],
        *,
        wish: Wish,
        standing: Standing,
    ) -> Decision:
        """The gate's decision or the best single expert's, as the guard of the gate says."""
        plan, table, limits = standing.plan, standing.table, ticket.limits
        if limits is None:
            return gate

        def alone(expert: str) -> Decision:
            wanted = wish._replace(expert=expert)
            return route(features_f, plan=plan, table=table, limits=limits, wish=wanted, pace=gate.pace)

        return self.probing.decide(ticket.request_id, gate, task=ticket.task, expert=plan.best_single, single=alone)

    def _overlaid(
        self, ticket: Ticket, generic: Decision, features_f: NDArray[np.floating[Any]], *, wish: Wish
    ) -> Decision:
        """The decision for the owner's expert where that is worth more to them than the plan's choice."""
        owner, limits = ticket.owner, ticket.limits
        if owner is None or limits is None:
            return generic
        found = self._personal.overlay(owner, generic, features_f, task=ticket.task, limits=limits, wish=wish)
        ticket.overlay = "" if found is None else found.text
        return generic if found is None else found.decision

    def standing(self, task: Task, expert: str | None) -> Standing | None:
        """The plan in force; for an expert by name, if the plan does not hold it, its arms alone."""
        standing = self._planner.standing(task.name)
        if expert is None or (standing is not None and standing.table.has(expert)):
            return standing
        arms = [state for state in self._fleet.board.arms(task.name) if state.arm.expert == expert]
        if not arms:
            return None
        announced = AnnouncedModel(
            {expert: arms[0].arm.quality_fraction}, {expert: float(self._fleet.board.energy_j_n[arms[0].index])}
        )
        plan = Plan("by-name", announced, None, NO_CERTIFICATE)
        return Standing(plan, plan.table(arms, self._fleet.board))

    def _nobody(self, task: Task, expert: str | None) -> EdgewiseError:
        if expert is not None and not any(
            state.arm.expert == expert and state.arm.task == task.name for state in self._fleet.board.states
        ):
            return RequestError("EXPERT_NOT_FOUND", "No node has an expert of this name for this task.", field="expert")
        return Unavailable(
            "NO_NODE",
            "No connected node can serve this now; start one with `edgewise node run` or try again later.",
            retry_after_s=RETRY_AFTER_S,
        )


@frozen
class _Again:
    """See `Decider.again`."""

    decider: Decider
    task: Task
    features_f: NDArray[Any]
    wish: Wish
    pace: Pace | None
    shape: texts.Shape | None

    def __call__(self, left: Limits, avoid: frozenset[int]) -> Decision | None:
        standing = self.decider.standing(self.task, self.wish.expert)
        if standing is None:
            return None
        if self.shape is not None:
            standing = self.shape(standing, self.decider.board)
        retry = self.wish._replace(avoid=self.wish.avoid | avoid, admitted=bool(avoid))
        plan, table = standing.plan, standing.table
        return route(self.features_f, plan=plan, table=table, limits=left, wish=retry, pace=self.pace)
