"""Who should stay awake: the choice for all tasks together, carried out step by step.

A node is chosen for all that it serves (`optimizer.selection.awake`), and its idle watts count once. What is not chosen
rests: plans are made that do not need it, and only when every task's certified plan does without is it put to sleep.
Two waits guard against flapping: a node that has joined stays awake for a while, one that fell asleep stays asleep for
a while, unless a request needs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from optimizer.errors import OptimizerError
from optimizer.selection.awake import Vigil as Choice
from optimizer.selection.awake import Watch, keep_awake
from optimizer.selection.power import Power, Terms
from orchestrator.arrivals import Arrivals
from orchestrator.config import Sleep
from orchestrator.errors import EdgewiseError
from orchestrator.fleet.dormitory import Dormitory
from orchestrator.fleet.fleet import Fleet
from orchestrator.planning.planner import Planner
from orchestrator.sleep.keeper import SleepKeeper
from orchestrator.sleep.types import SleepOffer

log = structlog.get_logger("sleep")


@dataclass(frozen=True)
class Verdict:
    """What is to be done now, after the waits."""

    wake: tuple[str, ...]
    sleep: tuple[str, ...]


def powers_of(fleet: Fleet) -> dict[str, Power]:
    """Of every node that may be put to sleep, asleep or not."""
    offers = {name: session.hello.sleep for name, session in fleet.sessions.items() if not session.draining}
    offers |= {name: sleeper.offer for name, sleeper in fleet.dormitory.sleepers.items() if not sleeper.overdue}
    return {node: _power(node, offer, fleet) for node, offer in offers.items() if offer is not None}


def _power(node: str, offer: SleepOffer, fleet: Fleet) -> Power:
    """By what its operator says, and by how long finishing and waking really took lately."""
    drain_s = fleet.dormitory.drain_s(node)
    return Power(
        idle_w=offer.idle_w,
        sleep_w=offer.sleep_w,
        wake_j=offer.wake_j,
        wake_s=max(offer.wake_s, fleet.dormitory.took_s(node)),
        awake=node in fleet.sessions,
        # Joules of what still runs belong to its requests.
        fall_j=offer.idle_w * drain_s + offer.suspend_w * offer.suspend_s,
        fall_s=drain_s + offer.suspend_s,
    )


def guarded(
    wanted: frozenset[str],
    powers: Mapping[str, Power],
    dormitory: Dormitory,
    config: Sleep,
    *,
    needed: frozenset[str] = frozenset(),
) -> Verdict:
    """What of that is done now: nothing that was just done the other way round, and nothing against a plan.

    Args:
        wanted: Nodes that should be awake.
        powers: Of those that may sleep.
        dormitory: Who sleeps, and since when.
        config: The waits.
        needed: Nodes that plans in force need.
    """
    now_s = dormitory.clock()
    wake = [
        node
        for node, sleeper in dormitory.sleepers.items()
        if node in wanted and sleeper.waking_s is None and now_s - sleeper.asleep_s >= config.min_asleep_s
    ]
    sleep = [
        node
        for node, power in powers.items()
        if power.awake and node not in wanted | needed and dormitory.awake_for_s(node) >= config.min_awake_s
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
        self.arrivals = Arrivals()

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
        self.arrivals.follow(self._fleet.tasks, self._config.check_s)
        powers = powers_of(self._fleet)
        watches = self._watches()
        if not powers or not watches:
            self._planner.rest(frozenset())
            return Verdict((), ())
        terms = Terms(self._config.price_per_j, self._config.horizon_s)
        chosen = await asyncio.to_thread(keep_awake, watches, powers, terms)
        planned = frozenset(arm.node for watch in watches.values() for arm in watch.problem.arms)
        # A node whose arms no task plans for is left as it is.
        known = {node: power for node, power in powers.items() if node in planned}
        self._planner.rest(frozenset(known) - chosen.awake)
        verdict = guarded(chosen.awake, known, self._fleet.dormitory, self._config, needed=self._planner.needed())
        self._act(verdict, chosen)
        return verdict

    def _watches(self) -> dict[str, Watch]:
        """Every task that has arms; one that nobody asks counts as asked once per horizon."""
        found = {}
        for task in list(self._fleet.tasks):
            if (problem := self._planner.problem(task)) is not None:
                rate_per_s = max(self.arrivals.rates_per_s.get(task, 0.0), 1.0 / self._config.horizon_s)
                found[task] = Watch(problem, rate_per_s)
        return found

    def _act(self, verdict: Verdict, chosen: Choice) -> None:
        if verdict.wake or verdict.sleep:
            log.info(
                "sleep.planned",
                wake=verdict.wake,
                sleep=verdict.sleep,
                awake=len(chosen.awake),
                idle_w=chosen.idle_w,
                objective_per_s=chosen.objective,
                gap_per_s=chosen.bound - chosen.objective,
            )
        for node in verdict.wake:
            self._keeper.wake(node, "the plan wants it awake")
        for node in verdict.sleep:
            self._keeper.sleep(node, "no plan needs it awake")
