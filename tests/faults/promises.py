"""The gateway's rooms with nodes whose joules and milliseconds stray from what they announced, on a virtual clock.

Real: the planner with its learned model, routing, margins, admission, attempts, cascades, fusion, sessions and budgets.
Played: the nodes. Every expert answers as it did on the reference set, and every piece of work takes

    actual = announced x lognormal(sigma = 0.3), one in 200 of them three times that,

drawn apart for joules and milliseconds, for each request and each arm before the run starts, so that hindsight knows
what every arm would have taken for every request.

Shape letters: q requests, n arms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgewise.v1 import fleet_pb2
from nodes.energy.profile import load_profile
from nodes.zoo.catalog import Catalog, load_catalog
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
    Arm,
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

Floats = NDArray[np.float64]

SIGMA = 0.3
OUTLIER_FRACTION, OUTLIER_FACTOR = 0.005, 3.0
# 99 % quantile of both together over the median.
Q99_FACTOR = 2.14
# 95 % quantile of the lognormal over its median: what a node would announce as p95 / p50.
P95_FACTOR = 1.64
# Milliseconds of an inference: fixed share and multiply-accumulates per millisecond; 1 to 21 ms over all arms.
SPEED = {"jetson-agx-orin": (3.0, 8e5), "rtx-4090": (2.0, 4e6), "laptop-cpu": (1.0, 3e5)}
ENERGY_FACTORS = (1.0, 20.0)
LATENCY_MS = (4.0, 100.0)
PROFILES = ("eco", "balanced", "best")
MEAN_GAP_S = 0.1
DEADLINE_S = 5.0


@dataclass(frozen=True)
class World:
    """Everything that is drawn before the run.

    Args:
        arms: All arms.
        energy_qn: Joules that each arm would take for each request.
        ms_qn: Milliseconds that it would take.
        energy_limit_q: Budgets.
        ms_limit_q: Budgets.
    """

    catalog: Catalog
    arms: tuple[Arm, ...]
    energy_qn: Floats
    ms_qn: Floats
    energy_limit_q: Floats
    ms_limit_q: Floats
    gap_s_q: Floats
    sample_q: NDArray[np.intp]
    profile_q: NDArray[np.str_]

    @property
    def requests(self) -> int:
        """How many."""
        return len(self.energy_limit_q)

    def critical_q(self) -> NDArray[np.bool_]:
        """Requests for which margins matter: an arm's predictions fit, but a 99 % quantile of it does not."""
        energy_n, ms_n = _predicted(self.arms)
        fits_qn = (energy_n <= self.energy_limit_q[:, None]) & (ms_n <= self.ms_limit_q[:, None])
        surely_qn = (Q99_FACTOR * energy_n <= self.energy_limit_q[:, None]) & (
            Q99_FACTOR * ms_n <= self.ms_limit_q[:, None]
        )
        return np.asarray((fits_qn & ~surely_qn).any(axis=1))

    def feasible_q(self) -> NDArray[np.bool_]:
        """Requests for which, in hindsight, some single arm stays within both limits."""
        within_qn = (self.energy_qn <= self.energy_limit_q[:, None]) & (self.ms_qn <= self.ms_limit_q[:, None])
        return np.asarray(within_qn.any(axis=1))


def draw_world(requests: int, *, seed: int) -> World:
    """Draw a world.

    Joules: each request takes one arm at random and may spend 1 to 20 times (log-uniform) what that arm is predicted
    to take; a quarter of these budgets lies below 2.1 times, the 99 % quantile of what it takes. Milliseconds: 4 to
    100 (log-uniform), where the fastest arm of each node is predicted to take 1, 2 and 3, and the slowest 21.
    """
    rng = np.random.default_rng(seed)
    catalog = load_catalog()
    arms = tuple(_arm(catalog, number, profile) for profile in SPEED for number in range(len(catalog.experts)))
    energy_n, ms_n = _predicted(arms)
    return World(
        catalog=catalog,
        arms=arms,
        energy_qn=energy_n * _noise(rng, (requests, len(arms))),
        ms_qn=ms_n * _noise(rng, (requests, len(arms))),
        energy_limit_q=rng.choice(energy_n, requests) * _log_uniform(rng, ENERGY_FACTORS, requests),
        ms_limit_q=_log_uniform(rng, LATENCY_MS, requests),
        gap_s_q=rng.exponential(MEAN_GAP_S, requests),
        sample_q=rng.integers(0, len(catalog.reference.labels_n), requests),
        profile_q=rng.choice(PROFILES, requests),
    )


def _predicted(arms: Sequence[Arm]) -> tuple[Floats, Floats]:
    return np.array([arm.energy.energy_j for arm in arms]), np.array([arm.p50_ms for arm in arms])


def _noise(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    outlier = rng.random(shape) < OUTLIER_FRACTION
    return rng.lognormal(0.0, SIGMA, shape) * np.where(outlier, OUTLIER_FACTOR, 1.0)


def _log_uniform(rng: np.random.Generator, between: tuple[float, float], requests: int) -> Floats:
    low, high = np.log(between)
    return np.asarray(np.exp(rng.uniform(low, high, requests)))


def _arm(catalog: Catalog, number: int, profile: str) -> Arm:
    card = catalog.experts[number]
    fixed_ms, macs_per_ms = SPEED[profile]
    p50_ms = fixed_ms + card.macs / macs_per_ms
    return Arm(
        expert=card.name,
        variant=card.variant,
        node=profile,
        task=catalog.task.name,
        engine=card.engine,
        model_digest=card.sha256,
        macs=card.macs,
        memory_bytes=card.memory_bytes,
        p50_ms=p50_ms,
        p95_ms=p50_ms * P95_FACTOR,
        latency_provenance=Provenance.MEASURED,
        energy=Energy(load_profile(profile).energy_j(card.macs), Provenance.MODELLED, f"profile:{profile}+noise"),
        quality_fraction=card.quality.accuracy_fraction,
        quality_samples=card.quality.samples,
        evidence_digest=tensor_digest(catalog.evidence_tensors(card)),
    )


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
        async with slot:
            if work.work_id not in session.pending:
                return
            energy_j = float(self.world.energy_qn[q, n])
            self.bills[q].energy_j += energy_j
            self.bills[q].arms += 1
            await asyncio.sleep(float(self.world.ms_qn[q, n]) / 1e3)
        energy = Energy(energy_j, Provenance.MODELLED, "profile+noise")
        answer = self.world.catalog.evidence(self.world.catalog.expert(work.expert))[self.world.sample_q[q]]
        self.service.fleet.heard(session)
        session.settle(Done(work.work_id, {"probabilities": answer[None]}, "", "", 0, 0, energy, 0.0, 0.0))

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
