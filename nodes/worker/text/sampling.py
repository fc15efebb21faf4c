"""From scores to the next token. Pure. Shape letter: v vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; a temperature of 0 always takes the most probable one."""

    temperature: float = 0.0
    top_p: float = 1.0


def probabilities(logits_v: NDArray[np.floating], temperature: float = 1.0) -> Floats:
    """Softmax at a temperature above 0."""
    scaled_v = logits_v.astype(np.float64) / temperature
    weights_v: Floats = np.exp(scaled_v - scaled_v.max())
    weights_v /= weights_v.sum()
    return weights_v


def kept(probability_v: Floats, top_p: float) -> Floats:
    """The fewest most probable tokens that make up `top_p` together, renormalised; the rest is 0."""
    if top_p >= 1.0:
        return probability_v
    order_v = np.argsort(-probability_v, kind="stable")
    before_v = np.cumsum(probability_v[order_v]) - probability_v[order_v]
    count = max(1, int(np.searchsorted(before_v, top_p, side="left")))
    kept_v = np.zeros_like(probability_v)
    kept_v[order_v[:count]] = probability_v[order_v[:count]]
    kept_v /= kept_v.sum()
    return kept_v


def most_probable(probability_v: Floats, count: int) -> list[int]:
    """The tokens with the highest probabilities, the most probable first."""
    count = min(count, len(probability_v))
    if count <= 0:
        return []
    found = np.argpartition(-probability_v, count - 1)[:count]
    return [int(token) for token in found[np.argsort(-probability_v[found], kind="stable")]]


def draw(probability_v: Floats, uniform: float) -> int:
    """The token at which the cumulated probabilities pass `uniform`, which lies in [0, 1)."""
    cumulated_v = np.cumsum(probability_v)
    return int(min(np.searchsorted(cumulated_v, uniform * cumulated_v[-1], side="right"), len(cumulated_v) - 1))


def margin(probability_v: Floats) -> float:
    """The largest probability minus the second."""
    second, first = np.partition(probability_v, -2)[-2:]
    return float(first - second)
