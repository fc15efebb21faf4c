"""How good estimates of quality turned out to be."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.fitting.judging import expected_calibration_error

Floats = NDArray[np.float64]


def judged(model: str, predicted_q: Floats, actual_q: Floats) -> dict[str, Any]:
    """One model's estimates beside what its answers were worth, (q,) each and at least one."""
    return {
        "model": model,
        "prompts": len(actual_q),
        "quality": float(actual_q.mean()),
        "predicted": float(predicted_q.mean()),
        "calibration_error": expected_calibration_error(predicted_q, actual_q),
        "squared_error": float(((predicted_q - actual_q) ** 2).mean()),
        "squared_error_of_mean": float(actual_q.var()),
    }
