"""What a text task is learnt from: every expert's answers to prompts whose right answers are known.

Shape letters: q prompts, e experts, c different answers to one prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import EvidenceError
from optimizer.evidence.answers import MIN_QUERIES, Evidence
from optimizer.routes.texts import normalised

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TextEvidence:
    """Prompts and each expert's answers to them.

    Args:
        experts: Names, in the order of the e axis.
        prompts: What was asked.
        correct_qe: 1 where the answer was right.
        margin_qe: How sure the expert was of its answer, 0 to 1.
        given_eq: What it answered, by expert and prompt.
        tokens_qe: Tokens of each answer; None where not all experts told.

    Raises:
        EvidenceError: Shapes that do not fit together, or values out of range.
    """

    experts: tuple[str, ...]
    prompts: tuple[str, ...]
    correct_qe: Floats
    margin_qe: Floats
    given_eq: tuple[tuple[str, ...], ...]
    tokens_qe: Floats | None = None

    def __post_init__(self) -> None:
        shape = (len(self.prompts), len(self.experts))
        for name in ("correct_qe", "margin_qe"):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            if values.shape != shape or not np.isfinite(values).all() or values.min() < 0.0 or values.max() > 1.0:
                raise EvidenceError(f"{name} must have shape (prompts, experts) and lie between 0 and 1.")
            object.__setattr__(self, name, values)
        if self.tokens_qe is not None and (self.tokens_qe.shape != shape or not (self.tokens_qe >= 0.0).all()):
            raise EvidenceError("tokens_qe must have shape (prompts, experts) and not be negative.")
        if not self.experts or len(set(self.experts)) != len(self.experts) or len(self.prompts) < MIN_QUERIES:
            raise EvidenceError(f"Text evidence needs experts of different names and at least {MIN_QUERIES} prompts.")
        if len(self.given_eq) != len(self.experts) or any(len(given) != len(self.prompts) for given in self.given_eq):
            raise EvidenceError("Text evidence needs one answer per expert and prompt.")

    @property
    def queries(self) -> int:
        """Number of prompts."""
        return len(self.prompts)

    def as_classes(self, confidence_qe: Floats) -> Evidence:
        """The same as classes: those of a prompt are the different answers that it got, the right one is class 0.

        An expert's output holds its confidence at its answer and nothing elsewhere, so that a vote over texts and a
        cascade on confidence are what `fuse` and `replay` know already.
        """
        queries, experts = confidence_qe.shape
        outputs_eqc = np.zeros((experts, queries, experts + 1))
        for q in range(queries):
            classes = self._classes(q)
            outputs_eqc[np.arange(experts), q, classes] = np.maximum(confidence_qe[q], 1e-6)
        return Evidence(self.experts, np.zeros((queries, 1)), np.zeros(queries, dtype=np.int64), outputs_eqc)

    def _classes(self, q: int) -> list[int]:
        """Class of each expert's answer: 0 where it is right, else one for each different text."""
        known: dict[str, int] = {}
        classes = []
        for e in range(len(self.experts)):
            if self.correct_qe[q, e] > 0.5:
                classes.append(0)
            else:
                classes.append(known.setdefault(normalised(self.given_eq[e][q]), len(known) + 1))
        return classes
