"""What a task is learnt from: answers of every expert to samples that it was not trained on.

Shape letters: q reference queries, f features, e experts, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import EvidenceError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MIN_QUERIES = 2


@dataclass(frozen=True)
class Evidence:
    """A labelled reference set and each expert's answers to it.

    Args:
        experts: Names, in the order of `outputs_eqc`.
        features_qf: Cheap features of the inputs that the gate may look at.
        labels_q: Index of the right class.
        outputs_eqc: Probabilities answered by each expert, none of them to a sample that it was trained on.

    Raises:
        EvidenceError: Shapes that do not fit together, values that are not finite, repeated names.
    """

    experts: tuple[str, ...]
    features_qf: Floats
    labels_q: Ints
    outputs_eqc: Floats

    def __post_init__(self) -> None:
        object.__setattr__(self, "features_qf", np.asarray(self.features_qf, dtype=np.float64))
        object.__setattr__(self, "labels_q", np.asarray(self.labels_q, dtype=np.int64))
        object.__setattr__(self, "outputs_eqc", np.asarray(self.outputs_eqc, dtype=np.float64))
        _check(self)

    @property
    def queries(self) -> int:
        """Number of reference queries."""
        return len(self.labels_q)

    @cached_property
    def correct_qe(self) -> Bools:
        """Whether each expert's most probable class is the right one."""
        right_eq: Bools = self.outputs_eqc.argmax(axis=2) == self.labels_q
        return right_eq.T

    @cached_property
    def confidence_qe(self) -> Floats:
        """Largest probability of each answer."""
        largest_eq: Floats = self.outputs_eqc.max(axis=2)
        return largest_eq.T

    @cached_property
    def accuracy_e(self) -> Floats:
        """Share of right answers of each expert."""
        accuracy_e: Floats = self.correct_qe.mean(axis=0)
        return accuracy_e

    def take(self, rows_q: NDArray[np.int64] | NDArray[np.bool_]) -> Evidence:
        """The evidence on some of the queries."""
        return Evidence(self.experts, self.features_qf[rows_q], self.labels_q[rows_q], self.outputs_eqc[:, rows_q])


def _check(evidence: Evidence) -> None:
    experts, queries = len(evidence.experts), len(evidence.labels_q)
    if experts == 0 or len(set(evidence.experts)) != experts:
        raise EvidenceError("Evidence needs at least one expert, and no name twice.")
    if evidence.labels_q.ndim != 1 or queries < MIN_QUERIES:
        raise EvidenceError(f"labels_q must have shape (queries >= {MIN_QUERIES},).")
    if evidence.features_qf.ndim != 2 or len(evidence.features_qf) != queries:
        raise EvidenceError(f"features_qf must have shape ({queries}, features).")
    if evidence.outputs_eqc.ndim != 3 or evidence.outputs_eqc.shape[:2] != (experts, queries):
        raise EvidenceError(f"outputs_eqc must have shape ({experts}, {queries}, classes).")
    if not np.isfinite(evidence.features_qf).all() or not np.isfinite(evidence.outputs_eqc).all():
        raise EvidenceError("Features and outputs must be finite.")
    if (evidence.outputs_eqc < 0).any():
        raise EvidenceError("Outputs must be probabilities: none may be negative.")
    classes = evidence.outputs_eqc.shape[2]
    if evidence.labels_q.min() < 0 or evidence.labels_q.max() >= classes:
        raise EvidenceError(f"labels_q must be class indices from 0 to {classes - 1}.")
