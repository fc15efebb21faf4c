"""Check a folder of experts by running it: do the files answer as well as their cards say?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nodes.worker.sessions import Sessions
from nodes.zoo.catalog import Catalog, ExpertCard


@dataclass(frozen=True)
class Finding:
    """One expert, run on the held-out samples.

    Attributes:
        held_out_fraction: Share of right answers found now.
        evidence_fraction: Share of right answers in the evidence, on other samples by sibling models.
        as_stated: True where `held_out_fraction` equals the card's.
    """

    expert: str
    held_out_fraction: float
    evidence_fraction: float
    as_stated: bool


def check_expert(catalog: Catalog, card: ExpertCard) -> Finding:
    """Run one expert on every held-out sample. Cost: below a second for the shipped digits."""
    held_out, reference = catalog.held_out, catalog.reference
    sessions, task = Sessions(), catalog.task
    sessions.load(card.name, str(catalog.model_path(card)), card.sha256)
    runs = (sessions.run(card.name, {task.input.name: one[None]})[0] for one in held_out.inputs)
    answers = [outputs[task.output.name] for outputs in runs]
    held_out_fraction = float(np.mean(np.concatenate(answers).argmax(axis=1) == held_out.labels_n))
    evidence_n = catalog.evidence(card).argmax(axis=1)
    evidence_fraction = float(np.mean(evidence_n == reference.labels_n))
    as_stated = abs(held_out_fraction - card.quality.accuracy_fraction) < 0.5 / len(held_out.labels_n)
    return Finding(card.name, held_out_fraction, evidence_fraction, as_stated)
