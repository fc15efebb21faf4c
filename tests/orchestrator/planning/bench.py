"""A planner at work on a fleet that a test changes, and evidence for it to learn from."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from orchestrator.fleet.evidence import tensor_digest
from orchestrator.fleet.fleet import Fleet
from orchestrator.fleet.session import NodeSession
from orchestrator.planning import settling
from orchestrator.planning.planner import PlanLimits, Planner, Standing
from orchestrator.types import Array, NodeHello
from tests.fakes.live import until
from tests.orchestrator.builders import a_fleet, a_hello, a_task, an_arm, answers_to, joined, reference_set

REFERENCE = reference_set()
REFERENCE_DIGEST = tensor_digest(REFERENCE)


class Inline(Executor):
    """Makes plans on the spot; can be told to fail instead, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.error: Exception | None = None
        self.held: list[Callable[[], None]] | None = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.asked.append(args[0])

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                if self.error is not None:
                    raise self.error
                future.set_result(fn(*args, **kwargs))
            except Exception as error:
                future.set_exception(error)

        if self.held is None:
            work()
        else:
            self.held.append(work)
        return future


class Bench:
    """A fleet, its planner at work, and where it plans."""

    def __init__(self, **limits: Any) -> None:
        self.fleet: Fleet = a_fleet()
        self.executor = Inline()
        self.executors = 0
        self.seconds: list[float] = []
        self.average_j: float | None = None
        self.planner = Planner(
            self.fleet,
            limits=PlanLimits(**limits),
            observe_s=self.seconds.append,
            executor=self._make,
            average_j=lambda _task: self.average_j,
        )
        self.task = asyncio.ensure_future(self.planner.run())

    def _make(self) -> Executor:
        self.executors += 1
        return self.executor

    def standing(self, task: str = "digits") -> Standing:
        standing = self.planner.standing(task)
        assert standing is not None
        return standing

    def certified(self, task: str = "digits") -> bool:
        standing = self.planner.standing(task)
        return standing is not None and standing.plan.certificate.status == "optimal"

    def learned(self) -> bool:
        return self.certified() and hasattr(self.standing().plan.model, "heads")

    def bound(self) -> list[str]:
        return [bound.name for bound in self.standing().table.bound]

    async def planned(self, times: int) -> None:
        """Wait until planning was asked for so often, and its answer is in force or refused."""
        await until(lambda: len(self.executor.asked) >= times)
        await self.idle()

    async def idle(self) -> None:
        """Wait until whatever is wanted has been looked at."""
        await asyncio.sleep(3 * settling.SETTLE_S)
        await until(lambda: not self.planner._wanted.is_set())


def outputs_of(expert: str, *, right: float = 0.8, seed: int = 1) -> dict[str, Array]:
    return {"outputs": answers_to(REFERENCE, right=right, seed=seed + len(expert))}


def with_evidence(node: str, *experts: str, right: float = 0.8) -> tuple[NodeHello, list[dict[str, Array]]]:
    evidence = [outputs_of(expert, right=right) for expert in experts]
    arms = tuple(
        an_arm(expert, node, energy_j=0.01 * (n + 1), evidence_digest=tensor_digest(sent))
        for n, (expert, sent) in enumerate(zip(experts, evidence, strict=True))
    )
    return a_hello(node, arms, tasks=(a_task(reference=REFERENCE_DIGEST),)), evidence


def join_with_evidence(fleet: Fleet, node: str, *experts: str, right: float = 0.8) -> NodeSession:
    hello, evidence = with_evidence(node, *experts, right=right)
    session = joined(fleet, hello)
    for tensors in [REFERENCE, *evidence]:
        fleet.take_evidence(tensor_digest(tensors), tensors)
    return session
