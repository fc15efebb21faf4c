"""Queries through the real client, a few callers at a time, and what came of each.

Shape letter: c classes; q is one query's place among the samples.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy.demo.levels import Level
from nodes.zoo.catalog import Samples
from optimizer.routes.fusion import confident, fuse
from optimizer.routes.route import Route
from orchestrator.client import Answer, AsyncClient
from orchestrator.errors import BudgetInfeasible, EdgewiseError

CALLERS = 3
TASK = "digits"
OUTPUT = "probabilities"
# Refused before anything ran; every other failure counts as a request that was accepted and let down.
REFUSED = ("OVERLOADED", "NO_NODE", "DRAINING")


@dataclass(frozen=True)
class Asked:
    """One query and what came of it.

    Args:
        request_id: For `edgewise why`; the last request where a policy made several.
        admitted: False where the gateway refused before anything ran.
        answered: Whether there was an answer.
        correct: Whether it was right.
        energy_j: Joules of everything that ran for it.
        ms: From question to answer or failure, as the caller saw it.
        arms: Arms that ran, in that order.
    """

    request_id: str
    admitted: bool
    answered: bool
    correct: bool
    energy_j: float
    ms: float
    arms: tuple[str, ...]


class Asker:
    """Asks a gateway.

    Args:
        client: Of the gateway.
        samples: Queries and their labels.
        labels: Of the task, by index.
        prefix: What request ids begin with.
    """

    def __init__(self, client: AsyncClient, samples: Samples, labels: Sequence[str], *, prefix: str) -> None:
        self._client = client
        self._samples = samples
        self._labels = tuple(labels)
        self._prefix = prefix
        self._numbers = itertools.count(1)

    async def edgewise(self, q: int, level: Level) -> Asked:
        """Query q within a budget; the gateway chooses."""
        request_id = self._request_id()
        image, label = self._samples.inputs[q], self._labels[int(self._samples.labels_n[q])]
        started_s = time.monotonic()
        try:
            answer = await self._client.infer(image, task=TASK, budget=level.budget, request_id=request_id)
        except EdgewiseError as error:
            return await self._failed(error, started_s, [request_id])
        return _asked(started_s, answer.label == label, [answer])

    async def route(self, q: int, route: Route) -> Asked:
        """Query q along a route that was fixed beforehand: every expert by name, no budget, the sum is paid."""
        ids: list[str] = []
        heard: list[Answer] = []
        started_s = time.monotonic()
        try:
            for stage, experts in enumerate(route.stages):
                ids.extend(self._request_id() for _ in experts)
                heard.extend(await self._stage(q, experts, ids[-len(experts) :]))
                fused = fuse(
                    route, [(e, _distribution(answer)) for e, answer in zip(route.experts, heard, strict=False)]
                )
                if confident(route, stage, float(fused.confidence)):
                    break
        except EdgewiseError as error:
            return await self._failed(error, started_s, ids)
        return _asked(started_s, int(fused.label) == int(self._samples.labels_n[q]), heard)

    async def _stage(self, q: int, experts: Sequence[str], ids: Sequence[str]) -> list[Answer]:
        """The experts' answers side by side; waits for all of them also where one fails, because all are paid."""
        image = self._samples.inputs[q]
        asks = [
            self._client.infer(image, task=TASK, expert=expert, request_id=request_id)
            for expert, request_id in zip(experts, ids, strict=True)
        ]
        answers: list[Answer] = []
        for result in await asyncio.gather(*asks, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
            answers.append(result)
        return answers

    async def _failed(self, error: EdgewiseError, started_s: float, ids: Sequence[str]) -> Asked:
        """What a failed query has cost: the gateway's journal knows what ran for each of its requests."""
        ms = (time.monotonic() - started_s) * 1e3
        ran = [attempt for request_id in ids for attempt in (await self._client.explain(request_id)).routing.attempts]
        refused = isinstance(error, BudgetInfeasible) or error.reason in REFUSED
        energy_j = math.fsum(attempt.energy.energy_j for attempt in ran)
        arms = tuple(attempt.arm for attempt in ran)
        return Asked(ids[-1], bool(ran) or not refused, False, False, energy_j, ms, arms)

    def _request_id(self) -> str:
        return f"{self._prefix}-{next(self._numbers)}"


async def ask_all(
    queries: Sequence[int], ask: Callable[[int], Awaitable[Asked]], done: Callable[[], None]
) -> list[Asked]:
    """Ask every query, `CALLERS` at a time; the results are in the order of the queries."""
    results: dict[int, Asked] = {}
    waiting = iter(enumerate(queries))

    async def caller() -> None:
        for place, q in waiting:
            results[place] = await ask(q)
            done()

    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(caller())
    return [results[place] for place in range(len(queries))]


def _asked(started_s: float, correct: bool, answers: Sequence[Answer]) -> Asked:
    ms = (time.monotonic() - started_s) * 1e3
    energy_j = math.fsum(answer.energy.energy_j for answer in answers)
    arms = tuple(attempt.arm for answer in answers for attempt in answer.routing.attempts)
    return Asked(answers[-1].request_id, True, True, correct, energy_j, ms, arms)


def _distribution(answer: Answer) -> NDArray[np.float64]:
    return np.asarray(answer.outputs[OUTPUT], dtype=np.float64).reshape(-1)
