"""How a fit is judged: by what it says of queries that it has not seen.

Shape letters: q queries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def expected_calibration_error(predicted_q: Floats, correct_q: NDArray[Any], *, bins: int = 10) -> float:
    """Mean distance between predicted and actual share of right answers over bins of equally many queries."""
    order_q = np.argsort(predicted_q, kind="stable")
    distance = 0.0
    for rows in np.array_split(order_q, min(bins, len(order_q))):
        distance += len(rows) * abs(float(predicted_q[rows].mean()) - float(correct_q[rows].mean()))
    return distance / len(order_q)


def folds_of(queries: int, *, folds: int, seed: int) -> NDArray[np.int64]:
    """Fold of each query, (q,): a seeded permutation, because reference sets come in telling orders."""
    fold_q = np.arange(queries) % folds
    return np.asarray(np.random.default_rng(seed).permutation(fold_q))
