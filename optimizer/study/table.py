"""A table of what every model made of every prompt, at which cost.

Shape letters: q prompts, m models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import EvidenceError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# A model that answered fewer of a task's prompts than this is not offered there; other holes are chance.
_OFFERED = 0.2
# A model that is offered for fewer of the prompts than this cannot stand for all of them.
COVERAGE = 0.95
# Two single models whose mean qualities are this close count as equally good; the cheaper one is the best.
TOLERANCE = 0.003


@dataclass(frozen=True)
class Table:
    """Outcomes of prompts × models.

    Args:
        texts: Prompts; may be empty.
        tasks: Task of each prompt.
        models: Names.
        quality_qm: 0 to 1; NaN where the model has no answer to the prompt.
        joules_qm: Of each answer; where there is none, what it would be expected to cost.
        ms_qm: Likewise.
        offered_qm: Where the model may be chosen; found from the answers when None.
        signals: What answers say of themselves, each (q, m), NaN where unknown: "confidence" and "agreement" from 0 to
            1, "length" in tokens.
        answers_qm: Equal numbers for equal answers to a prompt, -1 where unknown; None where the table does not say.
        stages: For the last columns, which are cascades: the models of the first stage and the model of the second.

    Raises:
        EvidenceError: Shapes that do not fit, values out of range, or a prompt that no model answered.
    """

    texts: tuple[str, ...]
    tasks: tuple[str, ...]
    models: tuple[str, ...]
    quality_qm: Floats
    joules_qm: Floats
    ms_qm: Floats
    offered_qm: Bools | None = None
    signals: Mapping[str, Floats] = field(default_factory=dict)
    answers_qm: NDArray[np.int64] | None = None
    stages: tuple[tuple[tuple[int, ...], int], ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.texts), len(self.models))
        if any(array.shape != shape for array in (self.quality_qm, self.joules_qm, self.ms_qm)):
            raise EvidenceError(f"Qualities, joules and milliseconds of a table must have the shape {shape}.")
        if len(self.tasks) != shape[0] or not self.known_qm.any(axis=1).all():
            raise EvidenceError("Every prompt needs a task and at least one model's answer.")
        quality = self.quality_qm[self.known_qm]
        if (quality < 0.0).any() or (quality > 1.0).any():
            raise EvidenceError("Qualities lie between 0 and 1.")
        if any(value_qm.shape != shape for value_qm in (*self.signals.values(), *self._answers)):
            raise EvidenceError(f"Signals and answers of a table must have the shape {shape}.")
        if not (np.isfinite(self.joules_qm).all() and np.isfinite(self.ms_qm).all() and (self.joules_qm >= 0.0).all()):
            raise EvidenceError("Joules and milliseconds must be finite and not negative.")

    @property
    def _answers(self) -> tuple[NDArray[np.int64], ...]:
        return () if self.answers_qm is None else (self.answers_qm,)

    @property
    def known_qm(self) -> NDArray[np.bool_]:
        """Where there is an answer."""
        return np.isfinite(self.quality_qm)

    @property
    def plain(self) -> int:
        """How many columns, the first ones, are models by themselves."""
        return len(self.models) - len(self.stages)

    @cached_property
    def task_q(self) -> NDArray[np.int64]:
        """Number of each prompt's task."""
        return np.asarray(np.unique(np.array(self.tasks, dtype=np.str_), return_inverse=True)[1]).ravel()

    @cached_property
    def _known_tm(self) -> Floats:
        return _by(self.task_q, self.known_qm.astype(np.float64))

    @cached_property
    def choice_qm(self) -> Bools:
        """Where a model may be chosen: in tasks of which it answered at least a fifth."""
        if self.offered_qm is not None:
            return self.offered_qm
        share_tm = self._known_tm / np.bincount(self.task_q)[:, None]
        return np.asarray((share_tm >= _OFFERED)[self.task_q] | self.known_qm)

    @cached_property
    def earned_qm(self) -> Floats:
        """Quality of sending a prompt there: the answer's, else the model's mean in the task, 0 where it has none."""
        total_tm = _by(self.task_q, np.nan_to_num(self.quality_qm))
        mean_tm = total_tm / np.maximum(self._known_tm, 1.0)
        return np.where(self.known_qm, self.quality_qm, mean_tm[self.task_q])

    @property
    def eligible_m(self) -> NDArray[np.bool_]:
        """Models that may stand for all prompts: those offered almost everywhere, or most widely if none is."""
        share_m = self.choice_qm.mean(axis=0)
        return np.asarray((share_m >= min(COVERAGE, float(share_m.max()))) & (np.arange(len(share_m)) < self.plain))

    def rows(self, rows_q: NDArray[np.int64]) -> Table:
        """The table of some of the prompts."""
        kept = rows_q.tolist()
        texts, tasks = tuple(self.texts[q] for q in kept), tuple(self.tasks[q] for q in kept)
        measured = (self.quality_qm[kept], self.joules_qm[kept], self.ms_qm[kept])
        signals = {name: value_qm[kept] for name, value_qm in self.signals.items()}
        answers_qm = None if self.answers_qm is None else self.answers_qm[kept]
        return Table(texts, tasks, self.models, *measured, self.choice_qm[kept], signals, answers_qm, self.stages)

    def best_single(self) -> int:
        """The cheapest of the eligible models within `TOLERANCE` of the most accurate."""
        models = np.flatnonzero(self.eligible_m)
        return int(
            models[cheapest_of_the_best(self.earned_qm.mean(axis=0)[models], self.joules_qm.mean(axis=0)[models])]
        )


def _by(group_q: NDArray[np.int64], value_qm: Floats) -> Floats:
    """Sums of values by group, (groups, m)."""
    out = np.zeros((int(group_q.max()) + 1, value_qm.shape[1]))
    np.add.at(out, group_q, value_qm)
    return out


def cheapest_of_the_best(quality_m: Floats, joules_m: Floats) -> int:
    """Index of the fewest joules within `TOLERANCE` of the highest quality."""
    good = np.flatnonzero(quality_m >= quality_m.max() - TOLERANCE - 1e-12)
    return int(good[joules_m[good].argmin()])
