"""GN: which expert answers, decided from the first layer's pooled answer before the rest runs. Numpy only.

A network of one small hidden layer, trained to tell the user's samples from stored generic ones. Its threshold is set
on generic samples that it has not seen, so that what everybody else loses stays below a stated bound.
Shapes: n samples, f features, h hidden units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nodes.personal.network import Floats

Doubles = NDArray[np.float64]

HIDDEN = 5
ROUNDS, MORE_ROUNDS = 110, 40
# Generic samples that a gate is trained against at most.
CONTRASTED = 1_000
# A start can end in a bad place; the better of two is taken.
STARTS = 2
LEARNING_RATE = 0.05
DECAY = 1e-3
RIDGE = 0.05
# One-sided 80 %: of several cautious steps between a user and a promotion this is only the first.
CONFIDENCE_Z = 0.84
# Stored samples are answered so many at a time until the bound is reached.
LOOK = 64


@dataclass(frozen=True, eq=False)
class Gate:
    """The local expert answers where ``relu(features @ first + bias) @ second + threshold > 0``."""

    first_fh: Floats
    bias_h: Floats
    second_h: Floats
    threshold: float

    @property
    def parameters(self) -> int:
        """Trained numbers."""
        return self.first_fh.size + self.bias_h.size + self.second_h.size + 1

    def score(self, features_nf: Floats) -> Doubles:
        """Above 0 the local expert answers."""
        hidden_nh = np.maximum(features_nf @ self.first_fh + self.bias_h, 0.0)
        score_n: Doubles = (hidden_nh @ self.second_h + self.threshold).astype(np.float64)
        return score_n


def closed(features: int) -> Gate:
    """The gate that always asks the global expert."""
    return Gate(
        np.zeros((features, HIDDEN), np.float32), np.zeros(HIDDEN, np.float32), np.zeros(HIDDEN, np.float32), -1
    )


def discriminate(own_nf: Floats, generic_nf: Floats, *, seed: int = 0, start: Gate | None = None) -> Gate:
    """A gate whose threshold is not set yet. Cost: 20 ms for 30 features; 5 ms from a start.

    Args:
        start: A gate that has seen part of these samples, to go on from.
    """
    generic_nf = generic_nf[:CONTRASTED]
    centre_f, spread_f = generic_nf.mean(axis=0), generic_nf.std(axis=0) + 1e-6
    rows_nf = ((np.concatenate([own_nf, generic_nf]) - centre_f) / spread_f).astype(np.float32)
    own_n = np.arange(len(rows_nf)) < len(own_nf)
    # Both sides count the same, however few samples the user has.
    weight_n = np.where(own_n, 0.5 / max(len(own_nf), 1), 0.5 / len(generic_nf)).astype(np.float32)
    rng = np.random.default_rng(seed)
    begins = [_fresh(rng, len(centre_f)) for _ in range(STARTS)]
    if start is not None:
        begins = [[start.first_fh * spread_f[:, None], start.bias_h + centre_f @ start.first_fh, start.second_h.copy()]]
    rounds = ROUNDS if start is None else MORE_ROUNDS
    _, values = min(((_descend(v, rows_nf, own_n, weight_n, rounds), v) for v in begins), key=lambda one: one[0])
    first_fh = values[0] / spread_f[:, None]
    bias_h = values[1] - centre_f @ first_fh
    return Gate(first_fh.astype(np.float32), bias_h.astype(np.float32), values[2].astype(np.float32), 0.0)


def _fresh(rng: np.random.Generator, features: int) -> list[Floats]:
    second_h = np.ones(HIDDEN, np.float32)
    second_h[::2] = -1.0
    first_fh = rng.normal(0.0, features**-0.5, (features, HIDDEN)).astype(np.float32)
    return [first_fh, np.zeros(HIDDEN, np.float32), second_h]


def discriminate_linear(own_nf: Floats, generic_nf: Floats) -> Gate:
    """The closed form of the same: a linear discriminant, for the first moments of a user. Cost: under 1 ms."""
    own, generic = own_nf.astype(np.float64), generic_nf.astype(np.float64)
    share = len(own) / (len(own) + 4.0 * own.shape[1])
    spread_ff = (1.0 - share) * np.cov(generic.T)
    if len(own) > 1:
        spread_ff = spread_ff + share * np.cov(own.T)
    ridge = RIDGE * np.trace(spread_ff) / len(spread_ff)
    weight_f = np.linalg.solve(spread_ff + ridge * np.eye(len(spread_ff)), own.mean(axis=0) - generic.mean(axis=0))
    weight_f /= np.linalg.norm(weight_f) + 1e-12
    # One hidden unit that never rests, so that both kinds of gate run the same way.
    rest = float(-(generic @ weight_f).min() + 10.0)
    first_fh = np.zeros((len(weight_f), HIDDEN), np.float32)
    first_fh[:, 0] = weight_f
    bias_h, second_h = np.zeros(HIDDEN, np.float32), np.zeros(HIDDEN, np.float32)
    bias_h[0], second_h[0] = rest, 1.0
    return Gate(first_fh, bias_h, second_h, 0.0)


def _descend(values: list[Floats], rows_nf: Floats, own_n: NDArray[np.bool_], weight_n: Floats, rounds: int) -> float:
    """Adam on the weighted log loss, in place; the loss in the end."""
    means, squares = [np.zeros_like(v) for v in values], [np.zeros_like(v) for v in values]
    for round_ in range(1, rounds + 1):
        gradients = _gradients(values, rows_nf, own_n, weight_n)
        for value, mean, square, gradient in zip(values, means, squares, gradients, strict=True):
            gradient = gradient + DECAY * value
            mean += 0.1 * (gradient - mean)
            square += 0.01 * (gradient**2 - square)
            step = (mean / (1 - 0.9**round_)) / (np.sqrt(square / (1 - 0.99**round_)) + 1e-8)
            value -= LEARNING_RATE * step
    score_n = np.maximum(rows_nf @ values[0] + values[1], 0.0) @ values[2]
    return float(weight_n @ np.logaddexp(0.0, np.where(own_n, -score_n, score_n)))


def _gradients(
    values: list[Floats], rows_nf: Floats, own_n: NDArray[np.bool_], weight_n: Floats
) -> tuple[Floats, Floats, Floats]:
    first_fh, bias_h, second_h = values
    hidden_nh = np.maximum(rows_nf @ first_fh + bias_h, 0.0)
    score_n = np.clip(hidden_nh @ second_h, -30.0, 30.0)
    slope_n = weight_n * (1.0 / (1.0 + np.exp(-score_n)) - own_n)
    back_nh = (slope_n[:, None] * second_h) * (hidden_nh > 0.0)
    return rows_nf.T @ back_nh, back_nh.sum(axis=0), hidden_nh.T @ slope_n


def calibrate(
    gate: Gate, generic_nf: Floats, lost: Callable[[NDArray[np.int64]], Doubles], *, bound_fraction: float
) -> tuple[Gate, float]:
    """The gate that sends as much as it may to the local expert, and what the samples say that generic accuracy loses.

    Args:
        gate: From `discriminate`.
        generic_nf: Features of stored generic samples that the gate was not trained on.
        lost: Of some of those samples: 1 where only the global expert is right, -1 where only the local one is, else 0.
            Asked for those that the gate sends first, until the bound is reached: most samples need no answer.
        bound_fraction: What generic accuracy may lose, at 80 % confidence.
    """
    score_n = replace(gate, threshold=0.0).score(generic_nf)
    order = np.argsort(-score_n, kind="stable")
    net, count, limit = 0.0, 0.0, bound_fraction * len(order)
    for at in range(0, len(order), LOOK):
        loss_n = lost(order[at : at + LOOK])
        net_n, count_n = net + np.cumsum(loss_n), count + np.cumsum(np.abs(loss_n))
        fits_n = net_n + CONFIDENCE_Z * np.sqrt(count_n) <= limit
        if not fits_n.all():
            # The first place where it does not fit is the end, whatever luck comes after.
            first = int(np.argmin(fits_n))
            net = float(net_n[first - 1]) if first else net
            return replace(gate, threshold=-float(score_n[order[at + first]])), net / len(order)
        net, count = float(net_n[-1]), float(count_n[-1])
    return replace(gate, threshold=1.0 - float(score_n[order[-1]])), net / max(len(order), 1)
