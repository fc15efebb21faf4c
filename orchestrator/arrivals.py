"""How often requests of each task come, smoothed over the periods at which somebody looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

# How fast a change of the rate of requests is followed.
SMOOTHING = 0.5


class Arrivals:
    """Requests per second by task; who sees a request come counts it in `arrived`."""

    def __init__(self) -> None:
        self.rates_per_s: dict[str, float] = {}
        self.arrived = Counter[str]()

    def follow(self, tasks: Iterable[str], period_s: float) -> None:
        """Take what has come since the last look into the rates."""
        for task in tasks:
            now_per_s = self.arrived[task] / period_s
            before_per_s = self.rates_per_s.get(task, now_per_s)
            self.rates_per_s[task] = before_per_s + SMOOTHING * (now_per_s - before_per_s)
        self.arrived.clear()
