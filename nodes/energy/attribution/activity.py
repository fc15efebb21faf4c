"""What was busy when, as functions of time that can be integrated over any window.

A busy interval is one stage of one piece of work: an arm that maps tensors has one, a text arm has prefill and decode.
Intervals of the same *class* (arm and stage) are taken to draw similar power. Power grows less than in proportion to
what runs at once, so the *effort* of an interval is its time weighted with ``n ** (exponent - 1)``, where n intervals
are busy at that moment.

Shape letters: n busy intervals, a classes, t instants at which something starts or ends, k windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Activity:
    """Busy intervals of one device.

    Attributes:
        start_s_n: When each interval began, on any monotonic clock.
        end_s_n: When it ended; not before it began.
        class_n: Index of its class.
        classes: Names of the classes.
    """

    start_s_n: Floats
    end_s_n: Floats
    class_n: Ints
    classes: tuple[str, ...]

    @classmethod
    def of(cls, intervals: Sequence[tuple[float, float, str]]) -> Activity:
        """From (start, end, class name) in any order; the order is kept."""
        names = tuple(dict.fromkeys(name for _, _, name in intervals))
        index = {name: position for position, name in enumerate(names)}
        return cls(
            np.array([start for start, _, _ in intervals], dtype=float),
            np.array([end for _, end, _ in intervals], dtype=float),
            np.array([index[name] for _, _, name in intervals], dtype=np.int64),
            names,
        )

    @property
    def size(self) -> int:
        """How many intervals there are."""
        return len(self.start_s_n)

    @property
    def most_at_once(self) -> int:
        """The largest number of intervals that were busy at one moment."""
        return int(_counts(self)[1].sum(axis=1).max(initial=0.0))


class Effort:
    """Integrals of the effort of every interval and class.

    Args:
        activity: What was busy.
        exponent: Total power goes with (what runs at once) to this power; 1 means that nothing is shared.
    """

    def __init__(self, activity: Activity, exponent: float) -> None:
        self.activity = activity
        self._edge_s_t, count_ta = _counts(activity)
        self._count_ta = count_ta
        count_t = count_ta.sum(axis=1)
        length_s_t = np.diff(self._edge_s_t, append=self._edge_s_t[-1:])
        self._rate_t = np.where(count_t > 0, np.maximum(count_t, 1.0) ** (exponent - 1.0), 0.0)
        self._total_t = _running(self._rate_t * length_s_t)
        self._total_ta = _running(self._rate_t[:, None] * count_ta * length_s_t[:, None])

    def by_class(self, low_s_k: Floats, high_s_k: Floats) -> Floats:
        """Effort seconds (k, a) of all intervals of a class within each window. Cost: O(k a log t)."""
        columns = [self._between(total_t, low_s_k, high_s_k) for total_t in self._total_ta.T]
        return np.stack(columns, axis=1) if columns else np.zeros((len(low_s_k), 0))

    def by_interval(self, low_s_k: Floats, high_s_k: Floats) -> Floats:
        """Effort seconds (k, n) of each interval within each window. Cost: O(k n log t)."""
        low_kn = np.maximum(low_s_k[:, None], self.activity.start_s_n)
        high_kn = np.minimum(high_s_k[:, None], self.activity.end_s_n)
        effort_kn = np.zeros(low_kn.shape)
        touching = high_kn > low_kn
        effort_kn[touching] = self._between(self._total_t, low_kn[touching], high_kn[touching])
        return effort_kn

    def whole(self) -> Floats:
        """Effort seconds (n,) of each interval."""
        return self._between(self._total_t, self.activity.start_s_n, self.activity.end_s_n)

    def _between(self, total_t: Floats, low_s: Floats, high_s: Floats) -> Floats:
        gained: Floats = np.interp(high_s, self._edge_s_t, total_t) - np.interp(low_s, self._edge_s_t, total_t)
        return gained


def _counts(activity: Activity) -> tuple[Floats, Floats]:
    """Instants (t,) and how many intervals of each class are busy from each on (t, a)."""
    edges_s = np.concatenate([activity.start_s_n, activity.end_s_n])
    steps = np.concatenate([np.ones(activity.size), -np.ones(activity.size)])
    edge_s_t, position = np.unique(edges_s, return_inverse=True)
    change_ta = np.zeros((len(edge_s_t), len(activity.classes)))
    np.add.at(change_ta, (position, np.tile(activity.class_n, 2)), steps)
    if not len(edge_s_t):
        return np.zeros(1), np.zeros((1, len(activity.classes)))
    return edge_s_t, np.cumsum(change_ta, axis=0)


def _running(step_t: Floats) -> Floats:
    """Sum of all steps before each instant."""
    total = np.cumsum(step_t, axis=0)
    return np.concatenate([np.zeros_like(total[:1]), total[:-1]])
