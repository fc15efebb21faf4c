"""Two fleets under the same load and the same luck: what changes, and how sure that is.

The requests are cut into batches in the order of their arrival; each batch gives one difference of each figure between
the two runs, and the interval is Student's over the batches. As both runs see the same arrivals and the same luck,
what they have in common cancels. Batches are long (a twentieth of the run) because neighbours wait in the same queues.

Shape letter: b batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from orchestrator.simulation.figures import Figures, figures
from orchestrator.simulation.outcome import Outcome

BATCHES = 20
CONFIDENCE = 0.95

FIGURES: dict[str, Callable[[Figures], float]] = {
    "answered_fraction": lambda f: f.answered_fraction,
    "quality_fraction": lambda f: f.quality_fraction,
    "energy_j": lambda f: f.energy_j,
    "mean_ms": lambda f: f.mean_ms,
    "p50_ms": lambda f: f.p50_ms,
    "p95_ms": lambda f: f.p95_ms,
}


@dataclass(frozen=True)
class Difference:
    """The second scenario's figure minus the first's, with its interval.

    Args:
        mean: Over the batches; the figure of a whole run may differ from the mean of its batches.
        low: Lower end at `CONFIDENCE`.
        high: Upper end.
        batches: Of how many.
    """

    mean: float
    low: float
    high: float
    batches: int

    @property
    def sure(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0.0 or self.high < 0.0


def compare(base: Outcome, other: Outcome, *, warm_up_s: float = 0.0) -> dict[str, Difference]:
    """Paired differences of two runs of one load.

    Raises:
        ValueError: The runs are not of the same load.
    """
    if not np.array_equal(base.ends.at_s_q, other.ends.at_s_q):
        raise ValueError("only runs of the same load can be compared")
    counted = np.flatnonzero(base.ends.at_s_q >= warm_up_s)
    batches = [part for part in np.array_split(counted, BATCHES) if len(part)]
    pairs = [(_of(base, part), _of(other, part)) for part in batches]
    return {
        name: _interval(np.array([figure(mine) - figure(its) for its, mine in pairs]))
        for name, figure in FIGURES.items()
    }


def _of(outcome: Outcome, part: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Figures:
    counted_q = np.zeros(len(outcome.ends.at_s_q), dtype=bool)
    counted_q[part] = True
    return figures(outcome.ends, counted_q)


def _interval(difference_b: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Difference:
    known_b = difference_b[np.isfinite(difference_b)]
    count = len(known_b)
    if count < 2:
        return Difference(float(known_b.mean()) if count else math.nan, math.nan, math.nan, count)
    mean = float(known_b.mean())
    half = float(stdtrit(count - 1, 0.5 + 0.5 * CONFIDENCE)) * float(known_b.std(ddof=1)) / math.sqrt(count)
    return Difference(mean, mean - half, mean + half, count)
