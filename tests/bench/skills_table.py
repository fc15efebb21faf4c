"""What every text expert that ships answers to the reference and the test questions, and what that takes.

The seam for whoever judges a router of texts: rows are questions, columns experts. Joules are modelled.

Shape letters: q questions, e experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from nodes.energy.profile import load_profile
from nodes.worker.text.library import Library
from nodes.zoo.language.catalog import load_text_catalog
from nodes.zoo.language.judging import Answers, answer_all
from nodes.zoo.language.texts import questions_from
from nodes.zoo.skills.skill import Question

DEVICE = "laptop-cpu"


@dataclass(frozen=True, eq=False)
class Table:
    """Answers of all experts to one set of questions."""

    experts: tuple[str, ...]
    questions: tuple[Question, ...]
    given_eq: tuple[tuple[str, ...], ...]
    correct_qe: NDArray[np.float64]
    margin_qe: NDArray[np.float64]
    completion_tokens_qe: NDArray[np.int64]
    energy_j_qe: NDArray[np.float64]

    def suite(self, name: str) -> NDArray[np.bool_]:
        """Which questions are of a suite."""
        return np.array([question.suite == name for question in self.questions])


@cache
def evidence_tables() -> tuple[Table, Table]:
    """Reference, to learn from, and test, to judge with. Cost: some minutes of one core, once per process."""
    catalog, library = load_text_catalog(), Library()
    for card in catalog.experts:
        library.load(card.name, str(catalog.model_path(card)), card.sha256)
    names = tuple(card.name for card in catalog.experts)
    reference, test = questions_from(catalog.reference), catalog.test
    return _table(names, reference, library), _table(names, test, library)


def _table(names: tuple[str, ...], questions: list[Question], library: Library) -> Table:
    profile = load_profile(DEVICE)
    answers: list[Answers] = [answer_all(library.arm(name), questions) for name in names]
    return Table(
        experts=names,
        questions=tuple(questions),
        given_eq=tuple(one.given for one in answers),
        correct_qe=np.column_stack([one.correct_q for one in answers]).astype(np.float64),
        margin_qe=np.column_stack([one.margin_q for one in answers]).astype(np.float64),
        completion_tokens_qe=np.column_stack([one.completion_tokens_q for one in answers]).astype(np.int64),
        energy_j_qe=np.column_stack([[profile.energy_j(int(macs)) for macs in one.macs_q] for one in answers]),
    )
