"""Rows of the table: many queries under one budget and one policy, in nine figures.

Shape letter: n admitted queries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from deploy.demo.asking import Asked
from deploy.demo.levels import Level

MS_SOURCE = "measured-here"
ENERGY_SOURCE = "modelled"


@dataclass(frozen=True)
class Row:
    """One policy under one budget.

    Args:
        budget: What each request was allowed.
        policy: "edgewise" or the name of an alternative, which knows no budget.
        accuracy: Share of right answers among the admitted; a request that was let down counts as wrong. None where
            nothing was admitted, as in all figures of answers.
        j_per_request: Mean joules of the admitted.
        p50_ms: Median milliseconds of the admitted, as the caller saw them.
        p95_ms: Their 95 % quantile.
        joule_miss_fraction: Share of the admitted that cost more than the budget.
        latency_miss_fraction: Share of the admitted that took longer than the budget or got no answer.
        admitted_fraction: Share of the queries that were not refused.
        arms: How often each arm ran, the busiest first.
        ms_source: Where milliseconds come from.
        energy_source: Where joules come from.
    """

    budget: Level
    policy: str
    accuracy: float | None
    j_per_request: float | None
    p50_ms: float | None
    p95_ms: float | None
    joule_miss_fraction: float
    latency_miss_fraction: float
    admitted_fraction: float
    arms: Mapping[str, int]
    ms_source: str = MS_SOURCE
    energy_source: str = ENERGY_SOURCE

    @property
    def document(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def make_row(level: Level, policy: str, asked: Sequence[Asked]) -> Row:
    """Sum up the queries of one policy under one budget."""
    admitted = [one for one in asked if one.admitted]
    limit_j = float("inf") if level.max_energy_j is None else level.max_energy_j
    ms_n = np.array([one.ms for one in admitted])
    return Row(
        budget=level,
        policy=policy,
        accuracy=_share(admitted, lambda one: one.correct) if admitted else None,
        j_per_request=float(np.mean([one.energy_j for one in admitted])) if admitted else None,
        p50_ms=float(np.quantile(ms_n, 0.5)) if admitted else None,
        p95_ms=float(np.quantile(ms_n, 0.95)) if admitted else None,
        joule_miss_fraction=_share(admitted, lambda one: one.energy_j > limit_j),
        latency_miss_fraction=_share(admitted, lambda one: not one.answered or one.ms > level.max_latency_ms),
        admitted_fraction=len(admitted) / len(asked),
        arms=dict(Counter(arm for one in admitted for arm in one.arms).most_common()),
    )


def _share(asked: Sequence[Asked], holds: Callable[[Asked], bool]) -> float:
    return sum(map(holds, asked)) / len(asked) if asked else 0.0
