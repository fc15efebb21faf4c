"""A fleet with in-process nodes: real sessions, real attempts, no sockets; each node's answers are functions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgewise.v1 import fleet_pb2
from optimizer.routes.fusion import Fused
from orchestrator.execution.attempt import Attempts
from orchestrator.execution.run import Progress, Runner
from orchestrator.fleet.arms import ArmBoard
from orchestrator.fleet.fleet import Fleet
from orchestrator.fleet.session import NodeSession
from orchestrator.routing.plan import NO_CERTIFICATE, Plan
from orchestrator.routing.route import Decision, Wish, route
from orchestrator.types import (
    Arm,
    Array,
    BudgetRequest,
    Done,
    Energy,
    Failed,
    FusionChoice,
    Limits,
    Provenance,
    Query,
)
from tests.orchestrator.builders import a_hello, a_task, joined, limits
from tests.orchestrator.routing.models import GivenModel

CLASSES = 10


@dataclass
class Node:
    """One in-process node: what it was told, and how it answers each expert's work."""

    session: NodeSession
    plays: Mapping[str, Play]
    works: list[fleet_pb2.Work] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    tasks: set[asyncio.Future[None]] = field(default_factory=set)

    async def take(self, message: fleet_pb2.ToNode) -> None:
        for command in message.commands:
            if command.WhichOneof("command") == "work":
                self.works.append(command.work)
                self.tasks.add(asyncio.ensure_future(self.plays[command.work.expert](self, command.work)))
            elif command.WhichOneof("command") == "cancel":
                self.cancelled.append(command.cancel.work_id)


MakeHouse = Callable[..., "House"]
Play = Callable[[Node, fleet_pb2.Work], Awaitable[None]]


def modelled(energy_j: float) -> Energy:
    return Energy(energy_j, Provenance.MODELLED, "profile:fake", 0.1 * energy_j)


def distribution(label: int, confidence: float = 0.95) -> Array:
    array = np.full((1, CLASSES), (1.0 - confidence) / (CLASSES - 1), dtype=np.float32)
    array[0, label] = confidence
    return array


def says(label: int, confidence: float = 0.95, *, energy: Energy | None = None, delay_s: float = 0.0) -> Play:
    return sends({"probabilities": distribution(label, confidence)}, energy=energy, delay_s=delay_s)


def sends(outputs: Mapping[str, Array], *, energy: Energy | None = None, delay_s: float = 0.0) -> Play:
    async def play(node: Node, work: fleet_pb2.Work) -> None:
        if delay_s:
            await asyncio.sleep(delay_s)
        node.session.settle(Done(work.work_id, outputs, "", "", 0, 0, energy or modelled(0.01), 0.0, 0.0))

    return play


def fails(reason: str = "ENGINE_ERROR", *, final: bool = False, energy: Energy | None = None) -> Play:
    async def play(node: Node, work: fleet_pb2.Work) -> None:
        unknown = Energy(0.0, Provenance.UNMEASURED, "")
        node.session.settle(Failed(work.work_id, reason, "", final, energy or unknown))

    return play


async def silence(node: Node, work: fleet_pb2.Work) -> None:
    """Never answers."""


class House:
    """Nodes, a plan and a runner.

    Args:
        model: Routes and their quality.
        max_patience_s: See `Attempts`.
        retries: See `Attempts`.
        max_attempts: See `Runner`.
    """

    def __init__(
        self, model: GivenModel, *, max_patience_s: float = 1.0, retries: bool = True, max_attempts: int = 3
    ) -> None:
        board = ArmBoard(energy_quantile=0.9, latency_quantile=0.9, margins=False)
        self.fleet = Fleet(board, lease_s=60.0)
        self.nodes: dict[str, Node] = {}
        self._plan = Plan("p", model, None, NO_CERTIFICATE)
        attempts = Attempts(self.fleet, max_patience_s=max_patience_s, retries=retries)
        self._runner = Runner(board, attempts, max_attempts=max_attempts)
        self._writers: list[asyncio.Future[None]] = []

    def add(self, plays: Mapping[Arm, Play]) -> Node:
        """A node with these arms, which all name it."""
        (name,) = {arm.node for arm in plays}
        session = joined(self.fleet, a_hello(name, tuple(plays)))
        node = self.nodes[name] = Node(session, {arm.expert: play for arm, play in plays.items()})
        self._writers.append(asyncio.ensure_future(session.write(node.take)))
        return node

    def decide(self, left: Limits, avoid: frozenset[int]) -> Decision | None:
        """The route for what is left of a query; None where no arm is routable."""
        arms = self.fleet.board.arms("digits")
        if not arms:
            return None
        table = self._plan.table(arms, self.fleet.board)
        return route(np.zeros(64), plan=self._plan, table=table, limits=left, wish=Wish(avoid=avoid))

    def start(self, wanted: Limits | None = None) -> Progress:
        """The progress of a new query, routed."""
        wanted = wanted or limits()
        decision = self.decide(wanted, frozenset())
        assert decision is not None
        return Progress(wanted, time.monotonic(), decision)

    async def run(self, progress: Progress, *, deadline_s: float = 5.0) -> Fused:
        """Run a query."""
        return await self._runner.run(a_query(deadline_s=deadline_s), progress, self.decide)

    async def close(self) -> None:
        """Stop what still runs."""
        tasks = [*self._writers, *(task for node in self.nodes.values() for task in node.tasks)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def a_query(**fields: Any) -> Query:
    known: dict[str, Any] = {
        "request_id": "r1",
        "task": a_task(),
        "expert": None,
        "inputs": {"image": np.zeros((1, 8, 8), dtype=np.float32)},
        "budget": BudgetRequest(),
        "fusion": FusionChoice.AUTO,
        "max_experts": 4,
        "deadline_s": 5.0,
    }
    return Query(**(known | fields))


def outcomes(progress: Progress) -> list[tuple[str, str, str]]:
    """Arm, outcome and reason of each attempt."""
    return [(attempt.arm, attempt.outcome, attempt.reason) for attempt in progress.attempts]
