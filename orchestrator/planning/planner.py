"""Keeps a plan in force for every task while nodes come and go.

Two speeds. Binding routes to the arms of the moment is done at once, on the event loop, in a millisecond. Making a
plan (learning, solving, certifying) is done in a process of its own; until it is done, and whenever it fails, the last
certified plan stays in force.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
import structlog

from optimizer.deciding.model import TaskModel
from optimizer.selection.problem import Problem
from optimizer.selection.utility import BestOf
from orchestrator.fleet.arms import ArmState
from orchestrator.fleet.fleet import Change, Fleet
from orchestrator.planning.gate_files import GateFiles
from orchestrator.planning.gathering import Gathering
from orchestrator.planning.make import make_plan, plan_problem
from orchestrator.planning.process import end_process, planning_process
from orchestrator.planning.settling import Settling
from orchestrator.planning.sharing import Party
from orchestrator.planning.snapshot import Planned, Snapshot, moved, plan_arms, same_evidence
from orchestrator.routing.combined import CombinedModel
from orchestrator.routing.fused import FusedQuality
from orchestrator.routing.gated import gated
from orchestrator.routing.model import QualityModel, announced_model
from orchestrator.routing.plan import NO_CERTIFICATE, Plan
from orchestrator.routing.table import RouteTable
from orchestrator.routing.turns import spellers, vocabularies
from orchestrator.types import Task

log = structlog.get_logger("planner")

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

# Binding takes the longer the more arms there are, and every node that comes or goes asks for it. It takes at most this
# part of the event loop; only what goes beyond BIND_AT_ONCE_S, all of a burst together, is put off.
BIND_FRACTION = 0.02
BIND_AT_ONCE_S = 0.002
PLAN_TIMEOUT_S = 60.0
# How often what the arms really cost is compared with what the plan was made for.
DRIFT_CHECK_S = 5.0


@dataclass(frozen=True)
class PlanLimits:
    """What the active set of a plan may cost, and when it is made anew.

    Args:
        max_active_energy_j: Joules if every active arm ran once.
        max_active: Most active arms.
        mean_energy_j: Joules of a request on the average; with it, `max_active_energy_j` is not used.
        drift_fraction: How far an arm's joules may move before the plan is made anew.
    """

    max_active_energy_j: float | None = None
    max_active: int | None = None
    mean_energy_j: float | None = None
    drift_fraction: float = 0.2


class Standing(NamedTuple):
    """A plan with its routes on the arms of this moment."""

    plan: Plan
    table: RouteTable


class Planner:
    """Plans by task.

    Args:
        fleet: Whose changes lead to new plans.
        limits: Of the active sets.
        observe_s: Called with the seconds that each plan took.
        executor: Makes where plans are made; called again when its process has died.
        average_j: Long-run budget of a task in joules per request, None where it has none; wins over the limits'.
        gates: Heads that were trained by hand.
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        limits: PlanLimits,
        observe_s: Callable[[float], None],
        executor: Callable[[], Executor] = planning_process,
        average_j: Callable[[str], float | None] = lambda _task: None,
        gates: GateFiles | None = None,
    ) -> None:
        self._fleet = fleet
        self._limits = limits
        self._observe_s = observe_s
        self._make_executor = executor
        self._gathering = Gathering(fleet.evidence)
        self._average_j = average_j
        self.gates = GateFiles() if gates is None else gates
        # What feedback has shown of votes and judges; it outlives every plan.
        self.fused = FusedQuality()
        self._executor: Executor | None = None
        self._standing: dict[str, Standing] = {}
        # The last plan of each task, also while none of its arms is routable, with the task that it was made for.
        self._last: dict[str, tuple[Task, Plan]] = {}
        self._made: dict[str, Snapshot] = {}
        self._resting = frozenset[str]()
        self._numbers = itertools.count(1)
        self._wanted = asyncio.Event()
        self._settling = Settling(self._bereft)
        # When what binding has taken so far is its part of the time.
        self._bind_from_s = 0.0
        self._binding: asyncio.TimerHandle | None = None
        fleet.subscribe(self._on_change)

    def limit(self, limits: PlanLimits) -> None:
        """Change what active sets may cost; the plans in force stay until new ones are made."""
        self._limits = limits
        self._made.clear()
        self._wanted.set()

    def rest(self, nodes: frozenset[str]) -> None:
        """Plan as if these nodes slept: their arms are active only where they fit in beside a plan without them."""
        if nodes != self._resting:
            self._resting = nodes
            self._wanted.set()

    def needed(self) -> frozenset[str]:
        """Nodes that may not sleep: a certified plan needs them, or a task of theirs has no such plan."""
        found: set[str] = set()
        for task in self._fleet.tasks:
            known, plan = self._last.get(task, (None, None))
            certified = plan is not None and known == self._fleet.tasks[task]
            needed = plan.needed if plan is not None and certified else None
            found |= {state.arm.node for state in self._within_reach(task)} if needed is None else needed
        return frozenset(found)

    def standing(self, task: str) -> Standing | None:
        """The plan in force; None while no arm of the task is routable."""
        return self._standing.get(task)

    def _on_change(self, change: Change) -> None:
        if change in (Change.ARMS, Change.ROUTABLE):
            self._bind_soon()
        if change is not Change.ROUTABLE:
            self._wanted.set()

    # ---- binding, at once

    def _bind_soon(self) -> None:
        """Bind now, or in a moment where that was just done: routes on arms that are gone are masked all the same."""
        for task in self._fleet.tasks:
            if task not in self._standing or not self._fleet.board.has_arms(task):
                # The first arms of a task serve at once, and the last ones' end is known at once.
                self._rebind(task)
        left_s = self._bind_from_s - BIND_AT_ONCE_S / BIND_FRACTION - time.monotonic()
        if left_s <= 0.0:
            self.rebind()
        elif self._binding is None:
            self._binding = asyncio.get_running_loop().call_later(left_s, self.rebind)

    def rebind(self) -> None:
        """Bind every task's routes to the arms that are routable now."""
        if self._binding is not None:
            self._binding.cancel()
            self._binding = None
        started_s = time.monotonic()
        for task in self._fleet.tasks:
            self._rebind(task)
        took_s = time.monotonic() - started_s
        self._bind_from_s = max(self._bind_from_s, started_s) + took_s / BIND_FRACTION

    def _rebind(self, task: str) -> None:
        arms = self._fleet.board.arms(task)
        if not arms:
            self._standing.pop(task, None)
            return
        known, plan = self._last.get(task, (None, None))
        if plan is not None and known == self._fleet.tasks[task]:
            table = plan.table(arms, self._fleet.board, self._table(task))
            if table.bound:
                self._standing[task] = Standing(self._gated(task, plan), table)
                return
        self._install(task, Plan(self._plan_id(task), self._announced(task), None, NO_CERTIFICATE))

    def _install(self, task: str, plan: Plan) -> None:
        self._last[task] = self._fleet.tasks[task], plan
        if arms := self._fleet.board.arms(task):
            table = plan.table(arms, self._fleet.board, self._table(task))
            self._standing[task] = Standing(self._gated(task, plan), table)

    def _table(self, task: str) -> RouteTable | None:
        """The routes in force, also those of a plan before: they stay where a new plan has the same."""
        standing = self._standing.get(task)
        return None if standing is None else standing.table

    def _gated(self, task: str, plan: Plan) -> Plan:
        """The plan with the heads of the task's gate file, if it has one that knows its experts."""
        loaded = self.gates.of(self._fleet.tasks[task])
        if loaded is None:
            return plan
        model = gated(plan.model, loaded.given)
        return plan if model is plan.model else replace(plan, model=model, gate=loaded.digest)

    def _announced(self, task: str) -> QualityModel:
        return self._combined(task, announced_model(state.arm for state in self._within_reach(task)))

    def _combined(self, task: str, model: QualityModel) -> QualityModel:
        """The model of a text task with the votes and judges that clients may ask for by name."""
        if not self._fleet.tasks[task].text:
            return model
        arms = [state.arm for state in self._within_reach(task)]
        quality = {arm.expert: arm.quality_fraction for arm in arms}
        fused, able = self.fused.of(task), spellers(arms)
        return CombinedModel(model, quality, fused, vocabularies=vocabularies(arms), spellers=able)

    def _within_reach(self, task: str) -> list[ArmState]:
        """The arms of all nodes that are connected or asleep, also of those that take no work at this moment."""
        board = self._fleet.board
        nodes = [*self._fleet.sessions, *self._fleet.dormitory.sleepers]
        indices = sorted(n for name in nodes for n in board.nodes[name].arms)
        return [board.states[n] for n in indices if board.states[n].arm.task == task]

    def _plan_id(self, task: str) -> str:
        return f"{task}-{next(self._numbers)}"

    # ---- planning, beside

    async def run(self) -> None:
        """Plan whenever something changed, until cancelled."""
        try:
            while True:
                await self._change()
                await self._settling.settle(self._wanted)
                for task in list(self._fleet.tasks):
                    await self._plan(task)
        finally:
            if self._executor is not None:
                end_process(self._executor)

    def _bereft(self) -> bool:
        """Whether a plan in force has lost a node that it needs."""
        fleet = self._fleet
        needed = {node for standing in self._standing.values() for node in standing.plan.needed or ()}
        return not needed <= fleet.sessions.keys() | fleet.dormitory.sleepers.keys()

    async def _change(self) -> None:
        """Returns when something changed: the fleet, what its arms really cost, or what a request may cost."""
        while not self._wanted.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRIFT_CHECK_S):
                    await self._wanted.wait()
            if any(self._drifted(task) for task in self._made):
                return

    def _drifted(self, task: str) -> bool:
        if task not in self._fleet.tasks or not (arms := self._connected(task)):
            return False
        made = self._made[task]
        if self._mean_energy_j(task) != made.mean_energy_j:
            return True
        return moved(plan_arms(arms, self._fleet.board), made.arms, self._limits.drift_fraction)

    def _mean_energy_j(self, task: str) -> float | None:
        """Joules of a request on the average: the task's long-run budget, else the plan's own limit."""
        own_j = self._average_j(task)
        if own_j is not None and self._limits.max_active_energy_j is None:
            return own_j
        return self._limits.mean_energy_j

    async def _plan(self, task: str) -> None:
        started_s = time.monotonic()
        try:
            snapshot = self._snapshot(task)
            if snapshot is None or self._same(snapshot, self._made.get(task)):
                return
            planned = await self.beside(make_plan, snapshot)
        except Exception as error:  # the rim: whatever goes wrong in planning, the plan in force stays
            log.warning("plan.kept", task=task, why=str(error) or type(error).__name__)
            return
        seconds = time.monotonic() - started_s
        self._observe_s(seconds)
        self._made[task] = snapshot
        self._put_in_force(task, planned, seconds)

    def _put_in_force(self, task: str, planned: Planned, seconds: float) -> None:
        model = self._announced(task) if planned.model is None else self._combined(task, planned.model)
        plan = Plan(self._plan_id(task), model, planned.active, planned.certificate, needed=planned.needed)
        self._install(task, plan)
        log.info(
            "plan.made",
            task=task,
            plan=plan.plan_id,
            active=len(planned.active),
            status=planned.certificate.status,
            gap=planned.certificate.gap,
            explored=planned.certificate.explored,
            mode=planned.certificate.mode,
            learned=planned.model is not None,
            seconds=round(seconds, 3),
        )

    async def beside(self, work: Callable[[Asked], Answer], asked: Asked) -> Answer:
        """Work in the planning process.

        Raises:
            TimeoutError: It took too long; the process is given up.
            BrokenProcessPool: The process has died.
        """
        if self._executor is None:
            self._executor = self._make_executor()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PLAN_TIMEOUT_S):
                return await loop.run_in_executor(self._executor, work, asked)
        except (BrokenProcessPool, TimeoutError):
            end_process(self._executor)
            self._executor = None
            raise

    def _connected(self, task: str) -> list[ArmState]:
        """The task's arms on all nodes that are here to stay: a suspicion passes, so plans do not follow it."""
        board, sessions = self._fleet.board, self._fleet.sessions.values()
        # Nodes that sleep come when they are needed: plans count them in.
        there = [session.name for session in sessions if not session.draining]
        there += [name for name, sleeper in self._fleet.dormitory.sleepers.items() if not sleeper.overdue]
        indices = sorted(n for name in there for n in board.nodes[name].arms)
        return [board.states[n] for n in indices if board.states[n].arm.task == task]

    def problem(self, task: str) -> Problem | None:
        """What the task's arms, also those that sleep, are worth, by what was learned last; None without arms."""
        snapshot = self._snapshot(task)
        if snapshot is None:
            return None
        known, plan = self._last.get(task, (None, None))
        model = plan.model if plan is not None and known == self._fleet.tasks[task] else None
        learned = model.model if isinstance(model, CombinedModel) else model
        if isinstance(learned, TaskModel):
            return plan_problem(snapshot, learned)
        return replace(plan_problem(snapshot, None), utility=BestOf(np.array([self._announced_n(task)])))

    def parties(self, rates_per_s: Mapping[str, float]) -> Iterator[Party]:
        """The tasks that share a budget, as the planning process needs them; those without arms have no part."""
        for task, rate_per_s in rates_per_s.items():
            if task in self._fleet.tasks and (snapshot := self._snapshot(task)) is not None:
                yield Party(snapshot, self._announced_n(task), rate_per_s)

    def _announced_n(self, task: str) -> tuple[float, ...]:
        return tuple(state.arm.quality_fraction for state in self._connected(task))

    def _snapshot(self, task: str) -> Snapshot | None:
        arms = self._connected(task)
        if not arms:
            return None
        hellos = [session.hello for session in self._fleet.sessions.values()]
        hellos += [sleeper.hello for sleeper in self._fleet.dormitory.sleepers.values()]
        limits_bytes = {hello.node: hello.memory_limit_bytes for hello in hellos if hello.memory_limit_bytes}
        return Snapshot(
            task=task,
            arms=plan_arms(arms, self._fleet.board),
            evidence=self._gathering.of(self._fleet.tasks[task], arms),
            energy_limit_j=self._limits.max_active_energy_j,
            max_active=self._limits.max_active,
            memory_limit_bytes=limits_bytes,
            mean_energy_j=self._mean_energy_j(task),
            resting=self._resting & {state.arm.node for state in arms},
        )

    def _same(self, one: Snapshot, other: Snapshot | None) -> bool:
        """Whether planning again could change anything."""
        if other is None or moved(one.arms, other.arms, self._limits.drift_fraction):
            return False
        if (
            one.resting != other.resting
            or one.memory_limit_bytes != other.memory_limit_bytes
            or one.mean_energy_j != other.mean_energy_j
        ):
            return False
        return same_evidence(one.evidence, other.evidence)
