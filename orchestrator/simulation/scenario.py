"""A question as an operator asks it: a fleet, a load, and what to add or take away; answered by one run or two."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.budgets import merge
from orchestrator.longrun import LongRun
from orchestrator.simulation.arrivals import Trace, poisson, poisson_count, tiled
from orchestrator.simulation.compare import Difference, compare
from orchestrator.simulation.figures import Summary, summarise
from orchestrator.simulation.load import Kill, Load
from orchestrator.simulation.outcome import Outcome
from orchestrator.simulation.run import simulate
from orchestrator.simulation.world import TaskClass, World, served
from orchestrator.study.errors import StudyError
from orchestrator.types import BudgetRequest

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Arrivals:
    """When requests come.

    Args:
        rate_per_s: Of a Poisson process, or to which a trace is brought; None takes a trace as it is.
        duration_s: For how long.
        requests: How many of a Poisson process; None lets the duration say.
        trace: A trace instead of a Poisson process.
    """

    rate_per_s: float | None
    duration_s: float
    requests: int | None = None
    trace: Trace | None = None

    def draw(self, rng: np.random.Generator) -> Floats:
        """Seconds of all arrivals.

        Raises:
            StudyError: None, or far too many.
        """
        at_s_q = self._draw(rng)
        if not len(at_s_q):
            raise StudyError("no request comes in that time", "raise the rate or the --duration", what="load refused")
        return at_s_q

    def _draw(self, rng: np.random.Generator) -> Floats:
        if self.trace is not None:
            rate_per_s = self.trace.rate_per_s if self.rate_per_s is None else self.rate_per_s
            return tiled(self.trace, rate_per_s, self.duration_s, rng)
        rate_per_s = self.rate_per_s or 0.0
        if self.requests is not None:
            return poisson_count(rate_per_s, self.requests, rng)
        return poisson(rate_per_s, self.duration_s, rng)


@dataclass(frozen=True)
class Question:
    """What is asked.

    Args:
        world: The fleet as it is.
        arrivals: When requests come.
        seed: Of all chance; equal seeds give equal answers.
        kills: Nodes that die.
        add: Devices and how many more of them.
        remove: Devices and how many fewer of them.
        warm_up_s: Left out of the figures of requests.
    """

    world: World
    arrivals: Arrivals
    seed: int = 0
    kills: Sequence[Kill] = ()
    add: Mapping[str, int] = field(default_factory=dict)
    remove: Mapping[str, int] = field(default_factory=dict)
    warm_up_s: float = 0.0


@dataclass(frozen=True)
class Answer:
    """One scenario, or two and their differences.

    Args:
        base: The fleet as it is.
        changed: The fleet with what was added and taken away; None where nothing was.
        differences: The changed one's minus the base's, by figure.
    """

    seed: int
    base: Summary
    changed: Summary | None = None
    differences: Mapping[str, Difference] = field(default_factory=dict)


def _ignored(_text: str) -> None:
    return None


def answer(question: Question, *, progress: Callable[[str], None] = _ignored) -> Answer:
    """Simulate what was asked.

    Raises:
        StudyError: A device, a node or a task does not exist, or no request comes.
    """
    world = question.world
    load = draw_load(question)
    other = _changed(question)
    progress(f"{len(load.at_s_q)} requests on {len(world.nodes)} nodes")
    base = simulate(world, load)
    summary = summarise(world, base, warm_up_s=question.warm_up_s)
    if other is world:
        return Answer(question.seed, summary)
    progress(f"{len(load.at_s_q)} requests on {len(other.nodes)} nodes")
    changed = simulate(other, load)
    differences = compare(base, changed, warm_up_s=question.warm_up_s)
    return Answer(question.seed, summary, _summarised(other, changed, question), differences)


def _summarised(world: World, outcome: Outcome, question: Question) -> Summary:
    return summarise(world, outcome, warm_up_s=question.warm_up_s)


def draw_load(question: Question) -> Load:
    """The load of a question: arrivals and their tasks, the same for every fleet.

    Raises:
        StudyError: See `answer`.
    """
    world = question.world
    unserved = [task.name for task in world.tasks if task.name not in served(world)]
    if unserved and not question.add:
        raise StudyError(f"no node serves the task {unserved[0]}", "add one, or leave the task out", what="no fleet")
    names = {node.name for node in world.nodes}
    for kill in question.kills:
        if kill.node not in names:
            raise StudyError(f"there is no node {kill.node!r} to kill", "nodes are named DEVICE-1, DEVICE-2, ...")
    rng = np.random.default_rng((question.seed, 0))
    at_s_q = question.arrivals.draw(rng)
    share_t = np.array([task.share for task in world.tasks])
    task_q = rng.choice(len(share_t), len(at_s_q), p=share_t / share_t.sum())
    return Load(at_s_q, task_q.astype(np.intp), question.seed, question.kills)


def _changed(question: Question) -> World:
    world = question.world
    for device, count in question.add.items():
        world = world.add(device, count)
    for device, count in question.remove.items():
        world = world.remove(device, count)
    if not world.nodes:
        raise StudyError("no node would be left", "remove fewer", what="no fleet")
    return world


def with_budget(world: World, budget: BudgetRequest, long_run: LongRun) -> World:
    """The same world with a budget for every task, where it says something."""

    def changed(task: TaskClass) -> TaskClass:
        return replace(task, budget=merge(budget, task.budget), long_run=long_run if long_run.said else task.long_run)

    return replace(world, tasks=tuple(changed(task) for task in world.tasks))
