"""What feedback has shown of votes and judges that nobody could learn from evidence, task by task."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from optimizer.online.calibration import Calibration
from optimizer.routes.route import Route

if TYPE_CHECKING:
    from orchestrator.journal import Entry

# Quality of a route, from the best of its experts'.
Calibrated = Callable[[Route, float], float]


def key_of(route: Route) -> str:
    """What names a route whatever arms it runs on."""
    return f"{route.fusion.value}:" + ">".join("+".join(stage) for stage in route.stages)


def foreseen(entry: Entry) -> tuple[str, float] | None:
    """The fused route that answered a request, and the quality of the best of its experts for this query; None where it
    was one expert, or others had to help."""
    decision = entry.decision
    if decision is None or decision.route is None or decision.route.route.is_single:
        return None
    route = decision.route.route
    if not {attempt.arm.partition(":")[0] for attempt in entry.routing.attempts} <= set(route.experts):
        return None
    alone = [
        float(decision.offer.quality_r[r])
        for r, bound in enumerate(decision.table.bound)
        if bound.route.is_single and bound.route.experts[0] in route.experts
    ]
    return (key_of(route), max(alone)) if alone else None


class FusedQuality:
    """Calibrations by task and route."""

    def __init__(self) -> None:
        self._by_task: dict[str, dict[str, Calibration]] = {}

    def observe(self, task: str, key: str, said: float, score: float) -> None:
        """Take how good an answer was of a route for which so much was said of the best of its experts."""
        self._by_task.setdefault(task, {}).setdefault(key, Calibration()).observe(said, score)

    def of(self, task: str) -> Calibrated:
        """The quality of a task's routes; what was not learned is as good as the best of its experts."""

        def calibrated(route: Route, said: float) -> float:
            known = self._by_task.get(task)
            found = known.get(key_of(route)) if known else None
            return said if found is None else found.calibrated(said)

        return calibrated
