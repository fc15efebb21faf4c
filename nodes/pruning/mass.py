"""Which groups of filters an input needs: the mass criterion, on groups of contiguous channels.

Shape letters: b samples, c channels, g groups.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# One vector register of 32-bit floats, and what the kernels skip as a whole.
GROUP = 16
_ROUNDING = 1e-6

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]


def group_scores(score_bc: Floats, group: int = GROUP) -> Floats:
    """Sum of the filter scores of each group; the last group may be smaller."""
    starts = np.arange(0, score_bc.shape[1], group)
    summed: Floats = np.add.reduceat(score_bc, starts, axis=1)
    return summed


def keep_by_mass(score_bg: Floats, mass: float) -> Bools:
    """True for the strongest groups whose shares of the total, added from the strongest on, stay within `mass`.

    The strongest group is always kept. Mass 1 drops only what is silent for this input.

    Source: arXiv 2110.08232, section 3.2, here on sums over groups instead of single filters.
    """
    order_bg = np.argsort(-score_bg, axis=1, kind="stable")
    sorted_bg = np.take_along_axis(score_bg, order_bg, axis=1)
    total_b1 = np.maximum(sorted_bg.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    kept_bg = (np.cumsum(sorted_bg / total_b1, axis=1) <= mass + _ROUNDING) & (sorted_bg > 0)
    kept_bg[:, 0] = True
    mask_bg = np.zeros_like(kept_bg)
    np.put_along_axis(mask_bg, order_bg, kept_bg, axis=1)
    return mask_bg


def threshold_for(logits_ng: NDArray[np.float32], keep: float) -> float:
    """Threshold above which this share of all logits lies, the best of each row counted in any case."""
    best_n = logits_ng.argmax(axis=1)
    others = np.ones_like(logits_ng, dtype=bool)
    others[np.arange(len(best_n)), best_n] = False
    rest = np.sort(logits_ng[others])[::-1]
    wanted = round(keep * logits_ng.size) - len(best_n)
    if wanted <= 0 or not len(rest):
        return float(logits_ng.max()) + 1.0
    if wanted >= len(rest):
        return float(logits_ng.min()) - 1.0
    return float(rest[wanted - 1] + rest[wanted]) / 2


def firing_order(score_bc: Floats) -> NDArray[np.int64]:
    """An order of channels that puts those next to each other which fire for the same inputs.

    Sorted along the leading direction of the correlations, so that a contiguous group is wanted, or not, as a whole.
    Channels that never vary go last.
    """
    centred_bc = score_bc.astype(np.float64) - score_bc.mean(axis=0)
    spread_c = centred_bc.std(axis=0)
    alive_c = spread_c > 0
    if alive_c.sum() < 2:
        return np.argsort(~alive_c, kind="stable")
    unit_ba = centred_bc[:, alive_c] / spread_c[alive_c]
    leading_a = np.linalg.eigh(unit_ba.T @ unit_ba)[1][:, -1]
    alive = np.flatnonzero(alive_c)[np.argsort(leading_a, kind="stable")]
    return np.concatenate([alive, np.flatnonzero(~alive_c)])
