"""The gateway of a simulation: its own board, budgets, accounts, door and routing, on simulated time.

Nothing here decides: it calls what `orchestrator.gateway.decider`, the door and the attempts of a running gateway call
(`tests/orchestrator/simulation/test_identity.py`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from optimizer.online.pacing import Charge
from orchestrator.admission import Verdict, admit, smoothed_s
from orchestrator.budgets import Budgets
from orchestrator.config import BudgetDefaults
from orchestrator.fleet.arms import ArmBoard
from orchestrator.pacing import Pacing
from orchestrator.routing.infeasible import kept_out_by, why_infeasible
from orchestrator.routing.model import announced_model
from orchestrator.routing.pace import Pace
from orchestrator.routing.plan import NO_CERTIFICATE, Plan
from orchestrator.routing.route import Decision, Wish, route
from orchestrator.routing.table import RouteTable
from orchestrator.simulation.world import GatewayTraits, Node, TaskClass
from orchestrator.types import BudgetRequest, Limits, OnInfeasible

_NO_FEATURES = np.zeros(0)
_WISH = Wish()
_NOTHING_SAID = BudgetRequest()


@dataclass
class Door:
    """Who is inside and who waits (a `Crowd`).

    Args:
        waiting: Indices of requests, in their order.
    """

    max_running: int
    max_queued: int
    waiting: deque[int]
    running: int = 0
    # As a gateway that has just been started believes.
    service_s: float = 0.005

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self.waiting)


@dataclass(frozen=True, slots=True)
class Standing:
    """A task's plan with its routes."""

    plan: Plan
    table: RouteTable


@dataclass(frozen=True, slots=True)
class Routed:
    """What was decided for one request; `refusal` is the error's reason where nothing fits."""

    decision: Decision
    limits: Limits
    charge: Charge | None
    refusal: str | None


class House:
    """Decisions for requests.

    Args:
        nodes: The fleet.
        tasks: Kinds of request.
        traits: The gateway's configuration.
        clock: Simulated seconds.
    """

    def __init__(
        self, nodes: Sequence[Node], tasks: Sequence[TaskClass], traits: GatewayTraits, *, clock: Callable[[], float]
    ) -> None:
        self.board = ArmBoard(
            energy_quantile=traits.energy_quantile, latency_quantile=traits.latency_quantile, clock=clock
        )
        for node in nodes:
            arms = [expert.arm(node.name) for expert in node.device.experts]
            device = node.device
            self.board.announce(node.name, arms, device.concurrency, queue_limit=device.queue_limit)
        default = BudgetDefaults()
        self.budgets = Budgets(
            BudgetRequest(
                default.max_energy_j, default.max_latency_ms, OnInfeasible(default.on_infeasible), default.profile
            ),
            {task.name: task.budget for task in tasks},
            None,
        )
        for task in tasks:
            if task.long_run.limits:
                self.budgets.set(task.name, _NOTHING_SAID, task.long_run)
        self.pacing = Pacing(self.budgets, None)
        self.door = Door(traits.max_running, traits.max_queued, deque())
        self._standing = {task.name: self._stand(task.name) for task in tasks}

    def _stand(self, task: str) -> Standing | None:
        arms = self.board.arms(task)
        if not arms:
            return None
        plan = Plan(f"{task}-simulated", announced_model(state.arm for state in arms), None, NO_CERTIFICATE)
        return Standing(plan, plan.table(arms, self.board))

    def verdict(self, deadline_s: float) -> Verdict:
        """What becomes of a request at the door now."""
        return admit(self.door, deadline_s)

    def left(self, service_s: float) -> None:
        """A request gives its place back after so many seconds of use."""
        self.door.running -= 1
        self.door.service_s = smoothed_s(self.door.service_s, service_s)

    def decide(self, task: TaskClass, now_s: float) -> Routed | None:
        """The route of a request that comes now; None where no node serves its task."""
        standing = self._standing[task.name]
        if standing is None:
            return None
        limits = self.budgets.resolve(task.name, _NOTHING_SAID, task.deadline_s)
        pace = self.pacing.arrive(task.name, now_s)
        decision = route(_NO_FEATURES, plan=standing.plan, table=standing.table, limits=limits, wish=_WISH, pace=pace)
        charge = None if pace is None else self.pacing.routed(task.name, decision)
        refusal = None
        if decision.route is None:
            self.board.turned_away(kept_out_by(decision, limits), limits.max_latency_ms / 1000.0)
            refusal = why_infeasible(decision, limits).reason
        return Routed(decision, limits, charge, refusal)

    def again(self, task: TaskClass, left: Limits, avoid: frozenset[int], *, pace: Pace | None) -> Decision | None:
        """The route of what is left of a request, around the arms that failed it."""
        standing = self._standing[task.name]
        if standing is None:
            return None
        wish = Wish(avoid=avoid, admitted=True)
        return route(_NO_FEATURES, plan=standing.plan, table=standing.table, limits=left, wish=wish, pace=pace)

    def settle(self, task: str, charge: Charge | None, energy_j: float) -> None:
        """A request has ended with these joules."""
        if charge is not None:
            self.pacing.settle(task, charge, energy_j)


def left_of(limits: Limits, spent_j: float, elapsed_ms: float) -> Limits:
    """What is left of a budget."""
    energy_j = max(0.0, limits.max_energy_j - spent_j) if math.isfinite(limits.max_energy_j) else math.inf
    latency_ms = max(0.0, limits.max_latency_ms - elapsed_ms)
    return Limits(energy_j, latency_ms, limits.on_infeasible, limits.profile)
