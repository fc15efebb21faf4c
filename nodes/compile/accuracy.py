"""Compares a compiled form's answers with the float model's on inputs that neither was calibrated on.

Shape letters: n samples, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.compile.errors import AccuracyLost, CompileError
from nodes.compile.forms import Precision

# How far an answer may be from the float model's where nothing was quantised. Optimisers reorder sums; GPUs multiply
# fp32 with ten bits of mantissa.
TOLERANCE = {Precision.FP32: 1e-3, Precision.FP16: 2e-2}


@dataclass(frozen=True)
class Comparison:
    """What a form's answers are worth beside the float model's.

    Attributes:
        loss_points: Right answers lost, in points of a hundred; of changed answers where no labels are known.
        right_fraction: Of the form's answers; None where no labels are known.
        changed_fraction: Answers whose largest class is another one.
        largest_difference: Between any two outputs.
    """

    samples: int
    loss_points: float
    right_fraction: float | None
    changed_fraction: float
    largest_difference: float


def compare(floats_nc: NDArray[Any], found_nc: NDArray[Any], labels_n: NDArray[Any] | None) -> Comparison:
    """Compare answers to the same inputs.

    Raises:
        CompileError: The form's answers are not finite, or have another shape.
    """
    if found_nc.shape != floats_nc.shape or not np.isfinite(found_nc).all():
        raise CompileError(f"the compiled model answers {found_nc.shape}, or not finitely; expected {floats_nc.shape}")
    rows = (len(floats_nc), -1)
    before_n, after_n = floats_nc.reshape(rows).argmax(axis=1), found_nc.reshape(rows).argmax(axis=1)
    changed = float((before_n != after_n).mean())
    difference = float(np.abs(floats_nc.astype(np.float64) - found_nc.astype(np.float64)).max())
    if labels_n is None:
        return Comparison(len(before_n), changed * 100.0, None, changed, difference)
    right = float((after_n == labels_n).mean())
    loss_points = (float((before_n == labels_n).mean()) - right) * 100.0
    return Comparison(len(before_n), loss_points, right, changed, difference)


def require(arm: str, precision: Precision, found: Comparison, *, limit_points: float) -> None:
    """Refuse a form that answers worse than allowed, or that computes something else.

    Args:
        arm: In the text of a refusal.

    Raises:
        AccuracyLost: It loses more than the limit.
        CompileError: Nothing was quantised, and the answers still differ.
    """
    if found.loss_points > limit_points:
        what = f"{arm} on {found.samples} held-out inputs"
        raise AccuracyLost(what, loss_points=found.loss_points, limit_points=limit_points)
    tolerance = TOLERANCE.get(precision)
    if tolerance is not None and found.largest_difference > tolerance:
        raise CompileError(
            f"{arm} differs from the float model by {found.largest_difference:.2g}; {tolerance:g} is allowed"
        )
