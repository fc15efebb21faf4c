"""A table on which no text tells which model will do, and an answer tells whether it is right, or does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from optimizer.study.table import Table

# Half of what the small one answers is right, and its own confidence says which half.
RIGHT = 0.5


def cascading_table(count: int = 400, *, telling: bool = True, signal: str = "confidence", seed: int = 3) -> Table:
    """Small at 1 J and 10 ms, right half of the time; large at 10 J and 100 ms, nearly always right.

    Args:
        count: Prompts, each a word that says nothing.
        telling: Whether the small one's signal says which of its answers are right; else it is drawn.
        signal: Its name.
        seed: Of the outcomes.
    """
    rng = np.random.default_rng(seed)
    right_q = rng.random(count) < RIGHT
    large_q = rng.random(count) < 0.95
    told_q = right_q if telling else rng.random(count) < RIGHT
    joules_qm = np.tile([1.0, 10.0], (count, 1))
    table = Table(
        texts=tuple(f"prompt {word}" for word in rng.integers(0, 50, count)),
        tasks=tuple(("chat", "exam")[q % 2] for q in range(count)),
        models=("small", "large"),
        quality_qm=np.column_stack([right_q, large_q]).astype(np.float64),
        joules_qm=joules_qm,
        ms_qm=10.0 * joules_qm,
    )
    return replace(table, **_told(signal, told_q, rng))


def _told(signal: str, told_q: np.ndarray[Any, Any], rng: np.random.Generator) -> dict[str, Any]:
    noise_q = rng.random(len(told_q))
    if signal == "length":
        return {"signals": {"length": np.column_stack([np.where(told_q, 20, 200) + 40 * noise_q, 50 + 40 * noise_q])}}
    sure_q = np.where(told_q, 0.7, 0.2) + 0.25 * noise_q
    return {"signals": {signal: np.column_stack([sure_q, np.full(len(told_q), 0.9)])}}


def agreeing_table(count: int = 400, *, telling: bool = True, seed: int = 4) -> Table:
    """Two small ones at 1 J each that say the same where they are right, and a large one behind them at 20 J."""
    rng = np.random.default_rng(seed)
    right_q2 = rng.random((count, 2)) < 0.6
    answers_qm = np.column_stack([np.where(right_q2, 0, 1 + np.arange(2)), np.zeros(count)]).astype(np.int64)
    if not telling:
        answers_qm = rng.integers(0, 2, answers_qm.shape)
    joules_qm = np.tile([1.0, 1.0, 20.0], (count, 1))
    quality_qm = np.column_stack([right_q2, rng.random(count) < 0.95]).astype(np.float64)
    texts = tuple(f"prompt {word}" for word in rng.integers(0, 50, count))
    return Table(
        texts,
        ("chat",) * count,
        ("one", "two", "large"),
        quality_qm,
        joules_qm,
        10.0 * joules_qm,
        answers_qm=answers_qm,
    )
