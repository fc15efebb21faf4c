"""Topics: groups of alike prompts, in each of which every head has weights of its own.

One linear head over everything says which expert is good at what on the whole; within a topic it can say which of that
topic's questions an expert gets wrong. Where prompts are compared by their features, no label takes part, and heads
that were fitted without a prompt have not seen it through its topic either. Where they are compared in a view of these
that was fitted to answers, they have, by a few directions that all prompts share.

Shape letters: q prompts, f features, k topics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import EvidenceError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_ROUNDS = 30
# Starts that are tried; the one with the least spread is kept.
_STARTS = 3
# Prompts that the centres are made of.
_SAMPLE = 2_000


@dataclass(frozen=True)
class Topics:
    """Which group a prompt belongs to: the one of the nearest centre, written as the largest of linear functions.

    Args:
        weight_kf: On raw features.
        bias_k: Likewise.
    """

    weight_kf: Floats
    bias_k: Floats

    def __post_init__(self) -> None:
        if self.weight_kf.ndim != 2 or self.bias_k.shape != self.weight_kf.shape[:1] or not len(self.bias_k):
            raise EvidenceError("Topics need one row of weights and one bias each.")
        if not np.isfinite(self.weight_kf).all() or not np.isfinite(self.bias_k).all():
            raise EvidenceError("The numbers of topics must be finite.")

    @classmethod
    def around(cls, centre_kv: Floats, scale_f: Floats, view_fv: Floats | None = None) -> Topics:
        """Those of centres in (a view of) scaled features: |x - c|² is least where x·c - |c|²/2 is largest."""
        weight_kf = centre_kv if view_fv is None else centre_kv @ view_fv.T
        return cls(weight_kf / scale_f, -0.5 * (centre_kv**2).sum(axis=1))

    @property
    def names(self) -> tuple[str, ...]:
        """What the topics are called."""
        return tuple(f"topic-{k}" for k in range(len(self.bias_k)))

    def of(self, features_qf: Floats) -> list[str]:
        """The topic of each prompt, given its features as an encoder makes them."""
        names = self.names
        return [names[k] for k in (features_qf @ self.weight_kf.T + self.bias_k).argmax(axis=1)]


def fit_topics(
    features_qf: Floats, count: int, *, scale_f: Floats, seed: int = 0, view_fv: Floats | None = None
) -> Topics:
    """Group prompts by k-means, started far apart.

    Args:
        features_qf: Of an encoder; at most 2,000 prompts, drawn by seed, are looked at.
        count: How many topics; fewer where there are fewer different prompts.
        scale_f: Makes features comparable.
        seed: Of the starts.
        view_fv: Linear functions of scaled features in which prompts are to be alike; None for the features themselves.

    Source: k-means++, Arthur and Vassilvitskii, SODA 2007.

    Cost: 0.1 s for 2,000 prompts or more and 12 topics.
    """
    rng = np.random.default_rng(seed)
    x_qf = features_qf / scale_f
    if view_fv is not None:
        x_qf = x_qf @ view_fv
    if len(x_qf) > _SAMPLE:
        x_qf = x_qf[np.sort(rng.choice(len(x_qf), _SAMPLE, replace=False))]
    tried = [_lloyd(x_qf, _seeds(x_qf, count, rng)) for _ in range(_STARTS)]
    centre_kf, _ = min(tried, key=lambda found: found[1])
    return Topics.around(centre_kf, scale_f, view_fv)


def _seeds(x_qf: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Prompts far from each other: each drawn by its squared distance to those before."""
    chosen = [int(rng.integers(len(x_qf)))]
    apart_q = _squared(x_qf, x_qf[chosen])[:, 0]
    while len(chosen) < count and (total := float(apart_q.sum())) > 0.0:
        chosen.append(int(rng.choice(len(x_qf), p=apart_q / total)))
        apart_q = np.minimum(apart_q, _squared(x_qf, x_qf[chosen[-1:]])[:, 0])
    return x_qf[chosen]


def _lloyd(x_qf: Floats, centre_kf: Floats) -> tuple[Floats, float]:
    """Centres that no longer move, and the sum of squared distances to them."""
    before_q: Ints | None = None
    spread = np.inf
    for _ in range(_ROUNDS):
        nearest_q, apart_q = _nearest(x_qf, centre_kf)
        spread = float(apart_q.sum())
        if before_q is not None and np.array_equal(nearest_q, before_q):
            break
        before_q = nearest_q
        centre_kf = _means(x_qf, nearest_q, centre_kf)
    return centre_kf, spread


def _means(x_qf: Floats, nearest_q: Ints, centre_kf: Floats) -> Floats:
    """The mean of each group; an empty one stays where it is."""
    count_k = np.bincount(nearest_q, minlength=len(centre_kf))
    sum_kf = np.zeros_like(centre_kf)
    np.add.at(sum_kf, nearest_q, x_qf)
    return np.where(count_k[:, None] > 0, sum_kf / np.maximum(count_k, 1)[:, None], centre_kf)


def _nearest(x_qf: Floats, centre_kf: Floats) -> tuple[Ints, Floats]:
    apart_qk = _squared(x_qf, centre_kf)
    nearest_q = apart_qk.argmin(axis=1)
    return nearest_q, apart_qk[np.arange(len(x_qf)), nearest_q]


def _squared(x_qf: Floats, centre_kf: Floats) -> Floats:
    """Squared distances, (q, k)."""
    apart_qk = (x_qf**2).sum(axis=1)[:, None] - 2.0 * x_qf @ centre_kf.T + (centre_kf**2).sum(axis=1)
    return np.asarray(np.maximum(apart_qk, 0.0))
