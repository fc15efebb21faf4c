"""What the heads of all experts share: features made comparable, tasks, folds, and the sums that a fit needs.

Nothing here knows a quality, so that a head is a function of its own expert's labels and of the prompts alone.

Shape letters: q queries, t tasks (0 stands for "not told"), f features, g folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import EvidenceError
from optimizer.gate.reference import STRUCTURE

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FOLDS = 5
# A task with fewer prompts than this has no row of its own.
_FEWEST = 20
# Weight of a standardised structure feature beside the latents, whose squares sum to 1.
_STRUCTURE_SCALE = 0.15


@dataclass(frozen=True)
class Design:
    """Prompts as the heads see them.

    Args:
        x_qf: Comparable features.
        task_q: Row of each prompt's task; 0 where it has none of its own.
        fold_q: Fold of each prompt, for cross-fitting.
        tasks: Names of the tasks with a row of their own, in the order of rows 1, 2, ...
        scale_f: What `x_qf` was divided by.
    """

    x_qf: Floats
    task_q: Ints
    fold_q: Ints
    tasks: tuple[str, ...]
    scale_f: Floats

    @property
    def rows(self) -> int:
        """Number of tasks, the unnamed one included."""
        return len(self.tasks) + 1

    @cached_property
    def _order(self) -> tuple[Ints, Ints, Ints]:
        """Prompts sorted by fold and task, where each such group starts, and its place in (g, t)."""
        group_q = self.fold_q * self.rows + self.task_q
        order_q = np.argsort(group_q, kind="stable")
        group, start = np.unique(group_q[order_q], return_index=True)
        return order_q, start, group

    @cached_property
    def folds(self) -> int:
        """Number of folds."""
        return int(self.fold_q.max()) + 1

    def sums(self, value_qv: Floats) -> Floats:
        """Sums of values by fold and task, (g, t, v)."""
        order_q, start, group = self._order
        out = np.zeros((self.folds * self.rows, value_qv.shape[1]))
        out[group] = np.add.reduceat(value_qv[order_q], start, axis=0)
        return out.reshape(self.folds, self.rows, -1)

    def squares(self, known_q: NDArray[np.bool_]) -> Floats:
        """Sums of x·xᵀ by fold and task over the known prompts, (g, t, f, f)."""
        order_q, start, group = self._order
        width = self.x_qf.shape[1]
        out = np.zeros((self.folds * self.rows, width, width))
        for place, rows_q in zip(group, np.split(order_q, start[1:]), strict=True):
            x_qf = self.x_qf[rows_q[known_q[rows_q]]]
            out[place] = x_qf.T @ x_qf
        return out.reshape(self.folds, self.rows, width, width)

    @cached_property
    def squares_gtff(self) -> Floats:
        """The same over all prompts: experts that answered everything share it."""
        return self.squares(np.ones(len(self.x_qf), dtype=bool))

    @cached_property
    def solved(self) -> dict[tuple[float, int], Any]:
        """What fits of experts that answered everything have in common, by penalty and fold left out."""
        return {}


def make_design(features_qf: Floats, tasks: Sequence[str], *, seed: int = 0, counts: int = STRUCTURE) -> Design:
    """Make features comparable and give every prompt its task's row and a fold.

    Args:
        features_qf: Of an encoder: latents, whose squares sum to about 1, then structure.
        tasks: Task of each prompt.
        seed: Of the folds.
        counts: How many of the last features are of any scale and must be made comparable.

    Raises:
        EvidenceError: Fewer than two prompts, or shapes that do not fit.
    """
    if features_qf.ndim != 2 or len(features_qf) != len(tasks) or len(tasks) < 2:
        raise EvidenceError("A gate needs at least two prompts, each with its features and its task.")
    names, place_q, count = np.unique(
        np.asarray(tasks, dtype=object).astype(str), return_inverse=True, return_counts=True
    )
    kept = np.flatnonzero(count >= min(_FEWEST, len(tasks)))
    row_of = np.zeros(len(names), dtype=np.int64)
    row_of[kept] = np.arange(1, len(kept) + 1)
    scale_f = comparable_scale(features_qf, counts)
    folds = np.arange(len(tasks)) % min(FOLDS, len(tasks))
    fold_q = np.random.default_rng(seed).permutation(folds)
    return Design(features_qf / scale_f, row_of[place_q.ravel()], fold_q, tuple(names[kept].tolist()), scale_f)


def comparable_scale(features_qf: Floats, counts: int = STRUCTURE) -> Floats:
    """What to divide features by so that the counts among them weigh like latents, (f,); infinite for constants."""
    scale_f = np.ones(features_qf.shape[1])
    spread = features_qf[:, -counts:].std(axis=0)
    # A feature that never varies says nothing: whatever it is in use, it shall not count.
    scale_f[-counts:] = np.where(spread > 1e-9, spread / _STRUCTURE_SCALE, np.inf)
    return scale_f
