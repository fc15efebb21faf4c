"""Cascades as further columns of a table: run a cheap model, go on to a dearer one where its answer looks wrong.

What a cascade does to a prompt is measured: quality, joules and milliseconds of the answers that it would have taken,
with every "goes on" decided by a calibration that had not seen the prompt. So the columns are priced, estimated and
chosen like any model's: joules are those of the first stage plus, where it goes on, those of the second, and time adds
up in the same way. Which of the many are worth a column: `optimizer.study.candidates`.

Shape letters: q prompts, m models, k cascades.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.study.candidates import Bench, pick
from optimizer.study.signals import Calibration, Start, calibrate, start_of
from optimizer.study.table import Table

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Cascade:
    """Go on where the chance that the first answer is right, by its signal, is too low.

    Args:
        first: Columns of the models that run first: one, or two that are to agree, or one twice that is to agree with
            itself.
        second: Column of the model that runs where they are not believed.
        signal: See `optimizer.study.signals`.
        below: The chance under which it goes on.
        calibration: From the signal to the chance.
    """

    first: tuple[int, ...]
    second: int
    signal: str
    below: float
    calibration: Calibration

    def goes_on(self, start: Start, tasks: Sequence[str]) -> Bools:
        """Where the second stage runs, (q,)."""
        return np.asarray(self.calibration.chance(start, tasks) < self.below)

    def start(self, table: Table, foreseen_qm: Floats) -> Start:
        """Its first stage on a table."""
        return start_of(table, self.first, self.signal, foreseen_qm)

    def name(self, models: Sequence[str]) -> str:
        """For people: ``small >confidence 0.8> large``."""
        return f"{'+'.join(models[m] for m in self.first)} >{self.signal} {self.below:.3g}> {models[self.second]}"


class Found(NamedTuple):
    """Cascades of training prompts, and where each went on by calibrations that had not seen the prompt, (q, k)."""

    cascades: tuple[Cascade, ...]
    goes_on_qk: Bools


def find_cascades(training: Table, foreseen_qm: Floats, cost_qm: Floats, *, seed: int) -> Found:
    """Cascades worth having beside the models.

    Args:
        training: With signals; without any, what was foreseen stands in for one.
        foreseen_qm: The gate's estimates of quality, by fits that had not seen the prompt.
        cost_qm: Likewise of joules.
        seed: Of the folds of calibration, and of the sample of prompts that they are chosen on.

    Cost: as in `pick`.
    """
    kept = pick(Bench(training, foreseen_qm, cost_qm), seed=seed)
    tasks = training.tasks
    cascades = (Cascade(c.start.members, c.second, c.start.signal, c.below, calibrate(c.start, tasks)) for c in kept)
    goes_on_qk = np.array([one.goes_on_q for one in kept], dtype=bool).reshape(len(kept), len(tasks)).T
    return Found(tuple(cascades), goes_on_qk)


def decided(cascades: Sequence[Cascade], judged: Table, foreseen_qm: Floats) -> Bools:
    """Where cascades that were found on other prompts go on, (q, k)."""
    columns = [one.goes_on(one.start(judged, foreseen_qm), judged.tasks) for one in cascades]
    return np.array(columns, dtype=bool).reshape(len(columns), len(judged.texts)).T


def widened(table: Table, cascades: Sequence[Cascade], goes_on_qk: Bools) -> Table:
    """The table with a column for each cascade behind those of the models; signals are used up by it."""
    if not cascades:
        return table
    columns = [_column(table, one, goes_on_q) for one, goes_on_q in zip(cascades, goes_on_qk.T, strict=True)]
    quality_qk, joules_qk, ms_qk = (np.column_stack(part) for part in zip(*columns, strict=True))
    choice_qk = np.column_stack([table.choice_qm[:, [*one.first, one.second]].all(axis=1) for one in cascades])
    return replace(
        table,
        models=(*table.models, *(one.name(table.models) for one in cascades)),
        quality_qm=np.hstack([table.quality_qm, quality_qk]),
        joules_qm=np.hstack([table.joules_qm, joules_qk]),
        ms_qm=np.hstack([table.ms_qm, ms_qk]),
        offered_qm=np.hstack([table.choice_qm, choice_qk]),
        signals={},
        answers_qm=None,
        stages=tuple((one.first, one.second) for one in cascades),
    )


def _column(table: Table, one: Cascade, goes_on_q: Bools) -> tuple[Floats, Floats, Floats]:
    """Quality, joules and milliseconds of each prompt."""
    start = one.start(table, np.full(table.quality_qm.shape, 0.5))
    return (
        np.where(goes_on_q, table.quality_qm[:, one.second], start.quality_q),
        start.joules_q + goes_on_q * table.joules_qm[:, one.second],
        start.ms_q + goes_on_q * table.ms_qm[:, one.second],
    )
