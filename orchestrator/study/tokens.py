"""How long answers are where a table does not say.

The figures are medians of the public ZeroEval results over all their models (gsm, crux and math-l5 prompts; characters
of the answer / 4), so what is computed from them is *modelled*.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# By what a task's name contains; the first that fits counts.
BY_TASK = (("gsm", 126.0), ("crux", 146.0), ("math", 264.0))
OTHERWISE = 149.0

Floats = NDArray[np.float64]


def tokens_of(task: str) -> float:
    """Tokens of an answer in a task of this name."""
    name = task.lower()
    return next((tokens for part, tokens in BY_TASK if part in name), OTHERWISE)


def fill_tokens(tokens_qm: Floats, tasks: list[str]) -> Floats:
    """Every entry a number: the model's mean in the task, else the task's median, else `tokens_of` the task.

    Shapes: q prompts, m models; NaN where nothing is known.
    """
    filled_qm = tokens_qm.copy()
    names = np.asarray(tasks, dtype=object)
    for task in sorted(set(tasks)):
        rows = np.flatnonzero(names == task)
        part = tokens_qm[rows]
        known = np.isfinite(part)
        usual = float(np.median(part[known])) if known.any() else tokens_of(task)
        count_m = known.sum(axis=0)
        mean_m = np.where(count_m > 0, np.where(known, part, 0.0).sum(axis=0) / np.maximum(count_m, 1), usual)
        filled_qm[rows] = np.where(known, part, mean_m)
    return filled_qm
