"""What a policy got and spent on prompts it had not seen, and how sure one can be of it.

Shape letters: q prompts, o outcomes, b bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.study.rules import Lottery, Rules, taken
from optimizer.study.table import Table

Floats = NDArray[np.float64]

RESAMPLES = 2_000


@dataclass(frozen=True)
class Outcome:
    """Of every prompt, the expectation over the lottery.

    Args:
        quality_q: Quality.
        joules_q: Joules.
        ms_2q: Milliseconds of either side of the lottery.
        chance_2q: Chance of either side.
    """

    quality_q: Floats
    joules_q: Floats
    ms_2q: Floats
    chance_2q: Floats

    @classmethod
    def of(cls, rules: Rules, lottery: Lottery, judged: Table) -> Outcome:
        """Of a lottery between two rules on the prompts to be judged."""
        choice_2n = rules.judged_rn[[lottery.first, lottery.second]]
        return cls.mixed(choice_2n, np.array([1.0 - lottery.chance, lottery.chance]), judged)

    @classmethod
    def mixed(cls, choice_rn: NDArray[np.int64], chance_r: Floats, judged: Table) -> Outcome:
        """Of a lottery between any number of rules."""
        quality_q, joules_q = (
            chance_r @ taken(value_qm, choice_rn) for value_qm in (judged.earned_qm, judged.joules_qm)
        )
        chance_rn = np.repeat(chance_r[:, None], choice_rn.shape[1], axis=1)
        return cls(quality_q, joules_q, taken(judged.ms_qm, choice_rn), chance_rn)

    @property
    def quality(self) -> float:
        """Mean quality."""
        return float(self.quality_q.mean())

    @property
    def energy_j(self) -> float:
        """Mean joules."""
        return float(self.joules_q.mean())

    def ms_quantile(self, quantile: float) -> float:
        """Quantile of the milliseconds."""
        order = np.argsort(self.ms_2q, axis=None)
        reached = np.cumsum(self.chance_2q.ravel()[order])
        place = np.searchsorted(reached, quantile * reached[-1] - 1e-12)
        return float(self.ms_2q.ravel()[order[min(int(place), len(order) - 1)]])


def assemble(parts: Sequence[Outcome], order: NDArray[np.int64]) -> Outcome:
    """Outcomes of the folds as one, in the order of the table."""
    quality, joules = (
        np.concatenate([getattr(part, name) for part in parts])[order] for name in ("quality_q", "joules_q")
    )
    widest = max(len(part.ms_2q) for part in parts)
    ms, chance = (
        np.concatenate([_widened(getattr(part, name), widest) for part in parts], axis=1)[:, order]
        for name in ("ms_2q", "chance_2q")
    )
    return Outcome(quality, joules, ms, chance)


def _widened(value_rq: Floats, rows: int) -> Floats:
    return np.vstack([value_rq, np.zeros((rows - len(value_rq), value_rq.shape[1]))])


def bootstrap(value_qo: Floats, *, seed: int = 0) -> Floats:
    """Means of paired resamples: every column is resampled with the same prompts; (b, o).

    Cost: 2,000 × q × o multiply-adds.
    """
    rng = np.random.default_rng(seed)
    queries = len(value_qo)
    out = []
    for _ in range(RESAMPLES // 100):
        drawn = rng.integers(0, queries, (100, queries))
        weight_bq = np.stack([np.bincount(row, minlength=queries) for row in drawn]).astype(np.float32)
        out.append(weight_bq @ value_qo.astype(np.float32) / queries)
    return np.concatenate(out).astype(np.float64)


def interval(mean_b: Floats, *, coverage: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrapped means."""
    low, high = np.quantile(mean_b, ((1.0 - coverage) / 2.0, (1.0 + coverage) / 2.0))
    return float(low), float(high)
