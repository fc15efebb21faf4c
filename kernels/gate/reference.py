"""The gate as formulas, in double precision. Shape letters: n samples, e experts, v vocabulary."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.errors import ShapeError

Doubles = NDArray[np.float64]


def top_weights(score_ne: NDArray[np.floating], k: int) -> Doubles:
    """Softmax over the k largest scores of each row, of equal ones the first; 0 for the rest.

    Raises:
        ShapeError: There are no k experts.
    """
    if not 1 <= k <= score_ne.shape[1]:
        raise ShapeError(f"between 1 and {score_ne.shape[1]} experts can be taken, not {k}")
    best_nk = np.argsort(-score_ne, axis=1, kind="stable")[:, :k]
    taken_nk = np.take_along_axis(score_ne.astype(np.float64), best_nk, axis=1)
    raised_nk = np.exp(taken_nk - taken_nk.max(axis=1, keepdims=True))
    weight_ne = np.zeros(score_ne.shape)
    np.put_along_axis(weight_ne, best_nk, raised_nk / raised_nk.sum(axis=1, keepdims=True), axis=1)
    return weight_ne


def mixed(logit_nev: NDArray[np.floating], weight_ne: NDArray[np.floating]) -> Doubles:
    """Logarithm (n, v) of the weighted average of the experts' distributions; weights are positive or 0."""
    centred_nev = logit_nev.astype(np.float64) - logit_nev.max(axis=2, keepdims=True)
    log_nev = centred_nev - np.log(np.exp(centred_nev).sum(axis=2, keepdims=True))
    with np.errstate(divide="ignore"):
        part_nev = log_nev + np.log(weight_ne.astype(np.float64))[:, :, None]
    top_nv = part_nev.max(axis=1)
    averaged: Doubles = top_nv + np.log(np.exp(part_nev - top_nv[:, None]).sum(axis=1))
    return averaged
