"""The gateway's rooms with nodes whose joules and milliseconds stray from what they announced, on a virtual clock.

Real: the planner with its learned model, routing, margins, admission, attempts, cascades, fusion, sessions and budgets.
Played: the nodes. Every expert answers as it did on the reference set; what it takes for that is drawn beforehand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edgewise.v1 import fleet_pb2
from nodes.zoo.catalog import Catalog
from nodes.zoo.digest import tensor_digest
from orchestrator.admission import Admission
from orchestrator.budgets import Budgets
from orchestrator.config import GatewayConfig
from orchestrator.errors import EdgewiseError
from orchestrator.execution.attempt import Attempts
from orchestrator.fleet.arms import ArmBoard
from orchestrator.fleet.fleet import Fleet, Refusal
from orchestrator.fleet.session import NodeSession
from orchestrator.gateway.service import Service
from orchestrator.journal import Journal
from orchestrator.metrics import Metrics
from orchestrator.planning.planner import PlanLimits, Planner
from orchestrator.types import (
    BudgetRequest,
    Done,
    Energy,
    FusionChoice,
    NodeHello,
    Provenance,
    Query,
    Task,
    TensorSpec,
)
from tests.fakes.virtual import HereAndNow, run_virtually
from tests.faults.world import SPEED, World

DEADLINE_S = 5.0


# ---- played nodes


@dataclass
class Bill:
    """What one request really took and how it ended; `outcome` is "answered" or an error's reason."""

    energy_j: float = 0.0
    ms: float = 0.0
    outcome: str = ""
    arms: int = 0


@dataclass
class Play:
    """One run of a world."""

    world: World
    service: Service
    bills: list[Bill] = field(default_factory=list)
    _working: set[asyncio.Future[None]] = field(default_factory=set)

    async def run(self) -> list[Bill]:
        """Let all nodes join, plan, then send all requests when they are due."""
        planning = asyncio.ensure_future(self.service.planner.run())
        task = _task(self.world.catalog)
        writers = [self._join(task, node) for node in SPEED]
        await asyncio.sleep(1.0)
        self.bills = [Bill() for _ in range(self.world.requests)]
        asking = []
        for q in range(self.world.requests):
            await asyncio.sleep(float(self.world.gap_s_q[q]))
            asking.append(asyncio.ensure_future(self._ask(q, task)))
        await asyncio.gather(*asking)
        for running in (planning, *writers):
            running.cancel()
        await asyncio.gather(planning, *writers, return_exceptions=True)
        return self.bills

    def _join(self, task: Task, node: str) -> asyncio.Future[None]:
        arms = tuple(arm for arm in self.world.arms if arm.node == node)
        fleet = self.service.fleet
        session = fleet.join(
            NodeHello(node, "test", 1, node, True, "profile", Provenance.MODELLED, (task,), arms, 1, 64, 0)
        )
        if isinstance(session, Refusal):
            raise ValueError(session.message)
        catalog = self.world.catalog
        fleet.take_evidence(task.reference_digest, dict(catalog.reference.tensors))
        for card in catalog.experts:
            tensors = catalog.evidence_tensors(card)
            fleet.take_evidence(tensor_digest(tensors), dict(tensors))
        return asyncio.ensure_future(self._serve(session))

    async def _serve(self, session: NodeSession) -> None:
        slot = asyncio.Lock()

        async def write(message: fleet_pb2.ToNode) -> None:
            for command in message.commands:
                if command.HasField("work"):
                    work = asyncio.ensure_future(self._work(session, slot, command.work))
                    self._working.add(work)
                    work.add_done_callback(self._working.discard)

        await session.write(write)

    async def _work(self, session: NodeSession, slot: asyncio.Lock, work: fleet_pb2.Work) -> None:
        """One at a time per node; work that was begun is finished and paid for, whether it is wanted or not."""
        q = int(work.request_id)
        n = next(n for n, arm in enumerate(self.world.arms) if (arm.node, arm.expert) == (session.name, work.expert))
        clock = asyncio.get_running_loop().time
        came_s = clock()
        async with slot:
            queue_ms = (clock() - came_s) * 1e3
            if work.work_id not in session.pending:
                return
            energy_j = float(self.world.energy_qn[q, n])
            self.bills[q].energy_j += energy_j
            self.bills[q].arms += 1
            compute_ms = float(self.world.ms_qn[q, n])
            await asyncio.sleep(compute_ms / 1e3)
        energy = Energy(energy_j, Provenance.MODELLED, "profile+noise")
        answer = self.world.catalog.evidence(self.world.catalog.expert(work.expert))[self.world.sample_q[q]]
        self.service.fleet.heard(session)
        session.settle(Done(work.work_id, {"probabilities": answer[None]}, "", "", 0, 0, energy, queue_ms, compute_ms))

    async def _ask(self, q: int, task: Task) -> None:
        world, bill = self.world, self.bills[q]
        budget = BudgetRequest(
            float(world.energy_limit_q[q]), float(world.ms_limit_q[q]), profile=str(world.profile_q[q])
        )
        picture = world.catalog.reference.inputs[world.sample_q[q]][None].astype(np.float32)
        query = Query(str(q), task, None, {"image": picture}, budget, FusionChoice.AUTO, 0, DEADLINE_S)
        started_s = asyncio.get_running_loop().time()
        try:
            await self.service.infer(query)
            bill.outcome = "answered"
        except EdgewiseError as error:
            bill.outcome = error.reason
        bill.ms = (asyncio.get_running_loop().time() - started_s) * 1e3


def _task(catalog: Catalog) -> Task:
    card = catalog.task
    specs = [TensorSpec(spec.name, np.dtype(spec.dtype), tuple(spec.shape)) for spec in (card.input, card.output)]
    return Task(card.name, specs[0], specs[1], card.labels, tensor_digest(catalog.reference.tensors))


def a_service(*, margins: bool) -> Service:
    """The gateway's work with the values that a gateway has by default, on the running loop's clock."""
    config = GatewayConfig()
    promise, retries = config.promise, config.retries
    board = ArmBoard(
        energy_quantile=promise.energy_quantile, latency_quantile=promise.latency_quantile, margins=margins
    )
    fleet = Fleet(board, lease_s=config.nodes.lease_s, clock=asyncio.get_running_loop().time)
    metrics = Metrics()
    return Service(
        fleet=fleet,
        planner=Planner(fleet, limits=PlanLimits(), observe_s=metrics.planned, executor=HereAndNow),
        budgets=Budgets(BudgetRequest(), {}, None),
        admission=Admission(max_running=config.admission.max_running, max_queued=config.admission.max_queued),
        attempts=Attempts(fleet, max_patience_s=retries.suspect_after_s),
        max_attempts=retries.max_attempts,
        journal=Journal(0),
        metrics=metrics,
        max_experts=config.fusion.max_experts,
    )


def play(world: World, *, margins: bool = True) -> list[Bill]:
    """What became of every request of a world."""

    async def run() -> list[Bill]:
        return await Play(world, a_service(margins=margins)).run()

    return run_virtually(run())


# ---- judging


@dataclass(frozen=True)
class Score:
    """How well the promises held."""

    admitted: int
    joule_miss_fraction: float
    latency_miss_fraction: float
    spent_j: float
    budgets_j: float
    feasible: int
    admitted_of_feasible_fraction: float
    critical_fraction: float


# Where nothing fits, and where what would fit is busy.
REFUSED = frozenset({"BUDGET_INFEASIBLE", "OVERLOADED"})


def score(world: World, bills: Sequence[Bill]) -> Score:
    """Judge a run; what was admitted and not answered counts as a missed latency."""
    admitted_q = np.array([bill.outcome not in REFUSED for bill in bills])
    energy_q = np.array([bill.energy_j for bill in bills])
    ms_q = np.array([bill.ms for bill in bills])
    answered_q = np.array([bill.outcome == "answered" for bill in bills])
    feasible_q = world.feasible_q()
    late_q = (ms_q > world.ms_limit_q) | ~answered_q
    return Score(
        admitted=int(admitted_q.sum()),
        joule_miss_fraction=float((energy_q > world.energy_limit_q)[admitted_q].mean()),
        latency_miss_fraction=float(late_q[admitted_q].mean()),
        spent_j=float(energy_q.sum()),
        budgets_j=float(world.energy_limit_q[admitted_q].sum()),
        feasible=int(feasible_q.sum()),
        admitted_of_feasible_fraction=float(admitted_q[feasible_q].mean()),
        critical_fraction=float(world.critical_q().mean()),
    )
