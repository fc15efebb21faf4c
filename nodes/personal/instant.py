"""The instant local expert: a residual ridge head on the penultimate features, updated in closed form. Numpy only.

It predicts what the global expert's probabilities lack of the truth. Stored generic samples are in it from the start,
so that what it learns of a user bends the answers as little as possible elsewhere. Recursive least squares gives after
every correction exactly what a batch fit on all of them gives.
Shapes: f features (with a constant), c classes, n samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nodes.personal.network import Floats

Doubles = NDArray[np.float64]

RIDGE = 1.0
# How much a stored generic sample counts against a correction.
GENERIC_WEIGHT = 0.02


@dataclass(frozen=True, eq=False)
class Prior:
    """What every user's head starts from.

    Attributes:
        covariance_ff: Inverse of ridge and generic samples together.
        weight_fc: The residuals that the generic samples alone ask for.
        scale: Features are divided by this.
    """

    covariance_ff: Doubles
    weight_fc: Doubles
    scale: float


def prior(features_nf: Floats, probabilities_nc: Floats, labels_n: NDArray[np.int64]) -> Prior:
    """From stored generic samples. Cost: once per expert."""
    scale = float(np.sqrt((features_nf.astype(np.float64) ** 2).mean())) or 1.0
    rows_nf = _rows(features_nf, scale)
    target_nc = residual(probabilities_nc, labels_n)
    precision_ff = RIDGE * np.eye(rows_nf.shape[1]) + GENERIC_WEIGHT * rows_nf.T @ rows_nf
    covariance_ff = np.linalg.inv(precision_ff)
    weight_fc = covariance_ff @ (GENERIC_WEIGHT * rows_nf.T @ target_nc)
    return Prior((covariance_ff + covariance_ff.T) / 2, weight_fc, scale)


def residual(probabilities_nc: Floats, labels_n: NDArray[np.int64]) -> Doubles:
    """What the probabilities lack of the truth, (n, c)."""
    target_nc = -probabilities_nc.astype(np.float64)
    target_nc[np.arange(len(labels_n)), labels_n] += 1.0
    return target_nc


def open_to(probabilities_nc: Floats, coverage_fraction: float) -> NDArray[np.bool_]:
    """Where a local answer may replace the global one: nowhere that the global expert is surer than this covers.

    A user who corrected one class of ten tells nothing about the other nine: their head speaks only where the two
    most probable classes are within a tenth of each other. All classes corrected: everywhere.

    Args:
        coverage_fraction: Share of the classes that were corrected.
    """
    if coverage_fraction >= 1.0:
        return np.ones(len(probabilities_nc), np.bool_)
    first_two_n2 = np.partition(probabilities_nc, -2, axis=1)[:, -2:]
    open_n: NDArray[np.bool_] = first_two_n2[:, 1] - first_two_n2[:, 0] < coverage_fraction
    return open_n


def coverage(labels_n: NDArray[np.int64], classes: int) -> float:
    """Share of the classes that occur."""
    return len(np.unique(labels_n)) / classes


class InstantHead:
    """One user's head. Not safe for several threads.

    Args:
        prior: Of the global expert.
    """

    def __init__(self, prior: Prior) -> None:
        self._scale = prior.scale
        self._covariance_ff = prior.covariance_ff.copy()
        self._weight_fc = prior.weight_fc.copy()
        self._row_f = np.ones(len(prior.covariance_ff))
        self.seen = 0

    @property
    def parameters(self) -> int:
        """Numbers that are kept for a user: weights and covariance (half of it: it is symmetric)."""
        size = len(self._covariance_ff)
        return int(self._weight_fc.size + size * (size + 1) // 2)

    @property
    def weight_fc(self) -> Doubles:
        """The residuals per feature."""
        return self._weight_fc

    def update(self, feature_f: Floats, residual_c: Doubles) -> None:
        """Learn from one correction. Cost: 20 µs at 84 features and 10 classes."""
        row_f = self._row(feature_f)
        gain_f = self._covariance_ff @ row_f
        divisor = 1.0 + float(row_f @ gain_f)
        error_c = residual_c - row_f @ self._weight_fc
        scaled_f = gain_f / divisor
        self._weight_fc += scaled_f[:, None] * error_c
        self._covariance_ff -= scaled_f[:, None] * gain_f
        self.seen += 1

    def correct(self, feature_f: Floats, probability_c: Floats) -> Doubles:
        """The local answer as probabilities. Cost: 10 µs."""
        raw_c = probability_c + self._row(feature_f) @ self._weight_fc
        np.maximum(raw_c, 0.0, out=raw_c)
        total = raw_c.sum()
        return raw_c / total if total > 0.0 else probability_c.astype(np.float64)

    def correct_many(self, features_nf: Floats, probabilities_nc: Floats) -> Doubles:
        """Local scores of many samples, not normalised."""
        scores_nc: Doubles = probabilities_nc + _rows(features_nf, self._scale) @ self._weight_fc
        return scores_nc

    def left_out(self, features_nf: Floats, probabilities_nc: Floats, labels_n: NDArray[np.int64]) -> Doubles:
        """Local scores of samples that were all learned, each as if it alone had not been."""
        rows_nf = _rows(features_nf, self._scale)
        error_nc = residual(probabilities_nc, labels_n) - rows_nf @ self._weight_fc
        leverage_n = np.einsum("nf,fg,ng->n", rows_nf, self._covariance_ff, rows_nf, optimize=True)
        target_nc = residual(probabilities_nc, labels_n)
        scores_nc: Doubles = probabilities_nc + target_nc - error_nc / (1.0 - leverage_n)[:, None]
        return scores_nc

    def _row(self, feature_f: Floats) -> Doubles:
        np.divide(feature_f, self._scale, out=self._row_f[:-1], dtype=np.float64)
        return self._row_f


def refit(
    prior: Prior, generic: Mapping[str, Floats], features_nf: Floats, residuals_nc: Doubles, labels_n: NDArray[np.int64]
) -> Doubles:
    """The weights that a batch fit on generic samples and all corrections gives: what `InstantHead` must equal.

    Args:
        generic: ``features`` and ``probabilities`` of the stored samples that `prior` was made from.
        labels_n: Their labels.
    """
    rows_nf, stored_nf = _rows(features_nf, prior.scale), _rows(generic["features"], prior.scale)
    precision_ff = RIDGE * np.eye(rows_nf.shape[1]) + GENERIC_WEIGHT * stored_nf.T @ stored_nf + rows_nf.T @ rows_nf
    target_fc = GENERIC_WEIGHT * stored_nf.T @ residual(generic["probabilities"], labels_n) + rows_nf.T @ residuals_nc
    return np.asarray(np.linalg.solve(precision_ff, target_fc), np.float64)


def _rows(features_nf: Floats, scale: float) -> Doubles:
    scaled_nf = features_nf.astype(np.float64) / scale
    return np.column_stack([scaled_nf, np.ones(len(scaled_nf))])
