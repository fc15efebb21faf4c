"""Who should stay awake: the planner's choice with idle watts, carried out step by step.

Each task chooses its nodes by itself (`optimizer.selection.awake`), and a node sleeps only where no task wants it
awake: with several tasks that keeps too many awake rather than too few. Two waits guard against flapping: a node that
has joined stays awake for a while, one that fell asleep stays asleep for a while, unless a request needs it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from optimizer.errors import OptimizerError
from optimizer.selection.awake import Demand, Power, keep_awake
from optimizer.selection.problem import Problem
from orchestrator.config import Sleep
from orchestrator.errors import EdgewiseError
from orchestrator.fleet.dormitory import Dormitory
from orchestrator.fleet.fleet import Fleet
from orchestrator.planning.planner import Planner
from orchestrator.sleep.keeper import SleepKeeper

log = structlog.get_logger("sleep")

# How fast a change of the rate of requests is followed.
SMOOTHING = 0.5


@dataclass(frozen=True)
class Watch:
    """What one task wants: everything that the choice needs, as plain values.

    Args:
        problem: Over the arms of every node, asleep or not.
        rate_per_s: Requests per second.
    """

    problem: Problem
    rate_per_s: float


@dataclass(frozen=True)
class Verdict:
    """What is to be done now, after the waits."""

    wake: tuple[str, ...]
    sleep: tuple[str, ...]


def powers_of(fleet: Fleet) -> dict[str, Power]:
    """Of every node that may be put to sleep, asleep or not."""
    offers = {name: session.hello.sleep for name, session in fleet.sessions.items() if not session.draining}
    offers |= {name: sleeper.offer for name, sleeper in fleet.dormitory.sleepers.items() if not sleeper.overdue}
    return {
        node: Power(offer.idle_w, offer.sleep_w, offer.wake_j, offer.wake_s, awake=node in fleet.sessions)
        for node, offer in offers.items()
        if offer is not None
    }


def judge(watches: list[Watch], powers: Mapping[str, Power], config: Sleep) -> frozenset[str]:
    """The nodes that some task wants awake; those that may not sleep are always among them.

    Raises:
        ProblemError: Powers that cannot be meant.
    """
    wanted: set[str] = set()
    for watch in watches:
        # With no requests at all, waking is weighed over the horizon and idling for ever: one request per horizon.
        rate_per_s = max(watch.rate_per_s, 1.0 / config.horizon_s)
        demand = Demand(rate_per_s, config.price_per_j, config.horizon_s)
        wanted |= keep_awake(watch.problem, powers, demand).awake
    return frozenset(wanted)


def guarded(wanted: frozenset[str], powers: Mapping[str, Power], dormitory: Dormitory, config: Sleep) -> Verdict:
    """What of that is done now: nothing that was just done the other way round."""
    now_s = dormitory.clock()
    wake = [
        node
        for node, sleeper in dormitory.sleepers.items()
        if node in wanted and sleeper.waking_s is None and now_s - sleeper.asleep_s >= config.min_asleep_s
    ]
    sleep = [
        node
        for node, power in powers.items()
        if power.awake and node not in wanted and dormitory.awake_for_s(node) >= config.min_awake_s
    ]
    return Verdict(tuple(sorted(wake)), tuple(sorted(sleep)))


class Vigil:
    """Looks from time to time, and has the keeper act.

    Args:
        fleet: Nodes.
        planner: Knows what each task's arms are worth.
        keeper: Acts.
        config: Prices and waits.
    """

    def __init__(self, fleet: Fleet, planner: Planner, keeper: SleepKeeper, config: Sleep) -> None:
        self._fleet = fleet
        self._planner = planner
        self._keeper = keeper
        self._config = config
        self._rates_per_s: dict[str, float] = {}
        self._arrivals = Counter[str]()

    def count(self, task: str) -> None:
        """A request has come."""
        self._arrivals[task] += 1

    async def run(self) -> None:
        """Look until cancelled; only where the configuration turns it on."""
        while self._config.enabled:
            await asyncio.sleep(self._config.check_s)
            try:
                await self.look()
            except (OptimizerError, EdgewiseError) as error:
                log.warning("sleep.not_planned", why=str(error))

    async def look(self) -> Verdict:
        """Choose and act once."""
        self._follow_rates()
        powers = powers_of(self._fleet)
        watches = []
        for task in list(self._fleet.tasks):
            problem = self._planner.problem(task)
            if problem is not None:
                watches.append(Watch(problem, self._rates_per_s.get(task, 0.0)))
        if not powers or not watches:
            return Verdict((), ())
        wanted = await asyncio.to_thread(judge, watches, powers, self._config)
        planned = frozenset(arm.node for watch in watches for arm in watch.problem.arms)
        # A node whose arms no task plans for is left as it is.
        known = {node: power for node, power in powers.items() if node in planned}
        verdict = guarded(wanted, known, self._fleet.dormitory, self._config)
        for node in verdict.wake:
            self._keeper.wake(node, "the plan wants it awake")
        for node in verdict.sleep:
            self._keeper.sleep(node, "the plan lets it sleep")
        return verdict

    def _follow_rates(self) -> None:
        counted, self._arrivals = self._arrivals, Counter[str]()
        for task in self._fleet.tasks:
            now_per_s = counted[task] / self._config.check_s
            before_per_s = self._rates_per_s.get(task, now_per_s)
            self._rates_per_s[task] = before_per_s + SMOOTHING * (now_per_s - before_per_s)
