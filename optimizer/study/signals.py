"""What an answer that is there says of itself, and the chance that it is right by that: calibrated per task.

Signals of a first answer, each better the higher: the expert's own *confidence*; its *length*, long answers being the
doubtful ones; *agreement*, of two samples of one model or of two models side by side; and, where a table has none of
these, what the gate has *foreseen* of it before it was there. Only the first three know the answer. They are read
beside what was foreseen: a small model that is sure of itself where it is known to be bad is not believed.

Shape letters: q prompts, m models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.fitting.judging import folds_of
from optimizer.fitting.logistic import fit_logistic, logit, sigmoid
from optimizer.study.table import Table

Floats = NDArray[np.float64]
# Weight of the signal, weight of what was foreseen, offset.
Line = tuple[float, float, float]

CONFIDENCE, LENGTH, AGREEMENT, FORESEEN = "confidence", "length", "agreement", "foreseen"
# Tasks with fewer answers than this are calibrated with all others together.
_OWN = 40
_FLOOR, _LEAST = 1e-4, 5e-3
_L2 = 1.0


@dataclass(frozen=True)
class Start:
    """The first stage of a cascade, on every prompt.

    Args:
        members: Models that run side by side, by column; twice the same one for two samples of it, one after the other.
        signal: What decides whether their answer stands.
        value_q: The signal, the higher the better; NaN where there is none.
        quality_q: Of the answer; NaN where it was not measured.
        joules_q: Of all that runs in the stage.
        ms_q: Until the stage has ended.
        foreseen_q: Log odds of a right answer, as the gate saw them before there was one.
    """

    members: tuple[int, ...]
    signal: str
    value_q: Floats
    quality_q: Floats
    joules_q: Floats
    ms_q: Floats
    foreseen_q: Floats

    def rows(self, rows_q: NDArray[np.int64]) -> Start:
        """The stage on some of the prompts."""
        columns = (self.value_q, self.quality_q, self.joules_q, self.ms_q, self.foreseen_q)
        return Start(self.members, self.signal, *(column_q[rows_q] for column_q in columns))


def start_of(table: Table, members: tuple[int, ...], signal: str, foreseen_qm: Floats) -> Start:
    """A stage and its signal on a table.

    Args:
        table: With the signal, see `Table.signals`; for two models' agreement with answers.
        members: One model, or two that are to agree; one is to agree with itself where it stands there twice.
        signal: One of the four.
        foreseen_qm: The gate's estimates, by fits that had not seen the prompt.
    """
    columns = list(members)
    itself = len(members) > len({*members})
    foreseen_q = logit(foreseen_qm[:, columns], floor=_LEAST).mean(axis=1)
    if signal == FORESEEN:
        value_q = foreseen_q
    elif len(members) == 1 or itself:
        value_q = _shaped(table.signals[signal][:, members[0]], signal)
    else:
        value_q = _agreement(table, *members)
    ms_qn = table.ms_qm[:, columns]
    return Start(
        members,
        signal,
        value_q,
        table.quality_qm[:, columns].mean(axis=1),
        table.joules_qm[:, columns].sum(axis=1),
        ms_qn.sum(axis=1) if itself else ms_qn.max(axis=1),
        foreseen_q,
    )


def _agreement(table: Table, one: int, other: int) -> Floats:
    """1 where two models gave the same answer, 0 where not; NaN where one of them is not known."""
    assert table.answers_qm is not None
    first_q, second_q = table.answers_qm[:, one], table.answers_qm[:, other]
    return np.where((first_q < 0) | (second_q < 0), np.nan, (first_q == second_q).astype(np.float64))


def _shaped(value_q: Floats, signal: str) -> Floats:
    """On the scale on which log odds are about linear in it."""
    if signal == LENGTH:
        return -np.log1p(value_q)
    if signal == AGREEMENT:
        return value_q
    return np.where(np.isfinite(value_q), logit(np.nan_to_num(value_q, nan=0.5), floor=_FLOOR), np.nan)


@dataclass(frozen=True)
class Calibration:
    """Chance of a right answer by its signal and by what the gate foresaw of it: logistic, never falling in the signal.

    Args:
        of_task: Of each task with enough answers: weight of the signal, weight of what was foreseen, offset.
        otherwise: Those of all answers together.
    """

    of_task: Mapping[str, Line]
    otherwise: Line

    def chance(self, start: Start, tasks: Sequence[str]) -> Floats:
        """Chance that each answer is right, (q,); 0 where there is no signal, so that nothing stops there."""
        line_q3 = np.array([self.of_task.get(task, self.otherwise) for task in tasks]).reshape(-1, 3)
        known_q = np.isfinite(start.value_q)
        odds_q = line_q3[:, 0] * np.where(known_q, start.value_q, 0.0) + line_q3[:, 1] * start.foreseen_q
        return np.where(known_q, sigmoid(odds_q + line_q3[:, 2]), 0.0)


def calibrate(start: Start, tasks: Sequence[str]) -> Calibration:
    """Fit what the signal says of quality, in each task that has answers enough and in all together."""
    known_q = np.isfinite(start.value_q) & np.isfinite(start.quality_q)
    task_q = np.array([*tasks], dtype=np.str_)
    own = [task for task in dict.fromkeys(tasks) if (known_q & (task_q == task)).sum() >= _OWN]
    lines = {task: _line(start, known_q & (task_q == task)) for task in own}
    return Calibration(lines, _line(start, known_q))


def _line(start: Start, rows_q: NDArray[np.bool_]) -> Line:
    """Weights and offset of the log odds; a signal that speaks against good answers says nothing."""
    x_q2 = np.column_stack([start.value_q[rows_q], start.foreseen_q[rows_q]])
    quality_q = start.quality_q[rows_q]
    if not len(quality_q):
        return 0.0, 0.0, 0.0
    weights_2, offset = _fit(x_q2, quality_q)
    if weights_2[0] < 0.0:
        weights_2, offset = _fit(x_q2 * np.array([0.0, 1.0]), quality_q)
    return float(weights_2[0]), float(weights_2[1]), offset


def _fit(x_q2: Floats, quality_q: Floats) -> tuple[Floats, float]:
    mean_2, scale_2 = x_q2.mean(axis=0), x_q2.std(axis=0)
    scale_2 = np.where(scale_2 > 1e-9, scale_2, 1.0)
    weights_2, offset = fit_logistic((x_q2 - mean_2) / scale_2, quality_q, l2=_L2)
    return weights_2 / scale_2, float(offset - mean_2 @ (weights_2 / scale_2))


def unseen_chance(start: Start, tasks: Sequence[str], *, folds: int, seed: int) -> Floats:
    """Chance that each answer is right by calibrations that had not seen its prompt, (q,)."""
    fold_q = folds_of(len(tasks), folds=folds, seed=seed)
    out_q = np.zeros(len(tasks))
    for fold in range(folds):
        inside, outside = np.flatnonzero(fold_q == fold), np.flatnonzero(fold_q != fold)
        fitted = calibrate(start.rows(outside), [tasks[q] for q in outside.tolist()])
        out_q[inside] = fitted.chance(start.rows(inside), [tasks[q] for q in inside.tolist()])
    return out_q
