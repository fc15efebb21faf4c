"""Shares one budget of joules among the tasks that have no long-run budget of their own.

From time to time the rates of requests are looked at, and the parts are worked out anew in the planning process. Each
part is its task's budget over many requests from then on: plans are made for it, and pacing keeps it. Whatever goes
wrong, the parts before stay in force.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from orchestrator.arrivals import Arrivals
from orchestrator.budgets import Budgets
from orchestrator.config import Sharing
from orchestrator.fleet.fleet import Fleet
from orchestrator.longrun import Share
from orchestrator.planning.planner import Planner
from orchestrator.planning.sharing import Shareout, share_out
from orchestrator.store.records import Quota

log = structlog.get_logger("sharing")

FLEET = "fleet"
DAY_S = 86_400.0
# Parts that have all moved by less stay as they are: a new part is a new plan.
SAME_FRACTION = 0.05


class Sharer:
    """Keeps the parts.

    Args:
        fleet: Whose tasks share.
        planner: Knows their arms and evidence, and where plans are made.
        budgets: Take the parts.
        config: What is shared, and how often that is looked at.
        quotas: Limits in force by scope.
    """

    def __init__(
        self,
        fleet: Fleet,
        planner: Planner,
        *,
        budgets: Budgets,
        config: Sharing,
        quotas: Callable[[], Mapping[str, Quota]],
    ) -> None:
        self._fleet = fleet
        self._planner = planner
        self._budgets = budgets
        self._config = config
        self._quotas = quotas
        self.arrivals = Arrivals()

    async def run(self) -> None:
        """Look until cancelled; only where the configuration names something to share."""
        while self._config.on:
            await asyncio.sleep(self._config.check_s)
            await self.look()

    async def look(self) -> None:
        """Share once."""
        self.arrivals.follow(self._fleet.tasks, self._config.check_s)
        shared, tasks = self._budget(), self._tasks()
        if shared is None or not tasks:
            self._budgets.share({})
            return
        budget, per_request = shared
        try:
            parties = tuple(self._planner.parties(tasks))
            if parties:
                self._put_in_force(await self._planner.beside(share_out, Shareout(parties, budget, per_request)))
        except Exception as error:  # the rim: whatever goes wrong in sharing, the parts in force stay
            log.warning("sharing.kept", why=str(error) or type(error).__name__)

    def _budget(self) -> tuple[float, bool] | None:
        """What is shared, and whether that is joules per request or watts."""
        config, quota = self._config, self._quotas().get(FLEET)
        if config.average_energy_j:
            return config.average_energy_j, True
        if config.average_power_w:
            return config.average_power_w, False
        if not config.fleet_limit or quota is None:
            return None
        limits_w = [quota.mean_w, None if quota.day_j is None else quota.day_j / DAY_S]
        known_w = [limit_w for limit_w in limits_w if limit_w is not None]
        return (min(known_w), False) if known_w else None

    def _tasks(self) -> dict[str, float]:
        """Requests per second of the tasks that share; those that nobody asks need nothing."""
        rates = self.arrivals.rates_per_s.items()
        return {task: rate for task, rate in rates if rate > 0.0 and not self._budgets.has_own_long_run(task)}

    def _put_in_force(self, parts: Mapping[str, Share]) -> None:
        before = self._budgets.shares
        if before.keys() == parts.keys() and all(_close(parts[task], before[task]) for task in parts):
            return
        self._budgets.share(parts)
        log.info(
            "sharing.made",
            parts_j={task: round(part.energy_j, 6) for task, part in parts.items()},
            points_per_j={task: round(part.points_per_j, 3) for task, part in parts.items()},
            gap=next(iter(parts.values())).gap_fraction,
            solver=next(iter(parts.values())).solver,
        )


def _close(one: Share, other: Share) -> bool:
    same_prices = one.next == other.next and abs(one.points_per_j - other.points_per_j) <= (
        SAME_FRACTION * other.points_per_j
    )
    return same_prices and abs(one.energy_j - other.energy_j) <= SAME_FRACTION * other.energy_j
