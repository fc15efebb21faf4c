"""What was learned last of each task, kept in the planning process: a node that comes or goes teaches nothing new.

Fitting heads to texts takes seconds and depends on the evidence alone; routes and prices depend on the costs as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optimizer.deciding.model import TaskModel
from optimizer.evidence.answers import Evidence
from optimizer.evidence.replay import Costs
from optimizer.evidence.texts import TextEvidence
from optimizer.heads.texts import TextFit, fit_text_heads
from optimizer.learning.learn import learn, learn_text
from orchestrator.planning.snapshot import Snapshot, same_evidence


@dataclass(frozen=True)
class Lesson:
    """A model and what it was learned from; `fit` is there for texts."""

    evidence: Evidence | TextEvidence
    costs: Costs
    model: TaskModel
    fit: TextFit | None


class Learning:
    """One lesson per task; what is the same as last time is not learned again."""

    def __init__(self) -> None:
        self._lessons: dict[str, Lesson] = {}

    def model(self, snapshot: Snapshot) -> TaskModel | None:
        """The task's model; None without evidence.

        Cost: nothing where evidence and costs are those of last time; see `learn` and `learn_text` otherwise.
        """
        evidence = snapshot.evidence
        if evidence is None:
            return None
        costs, last = _costs(snapshot, evidence), self._lessons.get(snapshot.task)
        known = last is not None and same_evidence(evidence, last.evidence)
        if last is not None and known and _same_costs(costs, last.costs):
            return last.model
        lesson = _learned(evidence, costs, last.fit if last is not None and known else None)
        self._lessons[snapshot.task] = lesson
        return lesson.model


def _learned(evidence: Evidence | TextEvidence, costs: Costs, fit: TextFit | None) -> Lesson:
    if isinstance(evidence, TextEvidence):
        fit = fit or fit_text_heads(evidence)
        return Lesson(evidence, costs, learn_text(evidence, costs, fit=fit), fit)
    return Lesson(evidence, costs, learn(evidence, costs), None)


def _costs(snapshot: Snapshot, evidence: Evidence | TextEvidence) -> Costs:
    """Of each expert on its cheapest arm."""
    energy_e = np.zeros(len(evidence.experts))
    latency_e = np.zeros(len(evidence.experts))
    for e, expert in enumerate(evidence.experts):
        cheapest = min((arm for arm in snapshot.arms if arm.expert == expert), key=lambda arm: arm.energy_j)
        energy_e[e], latency_e[e] = cheapest.energy_j, cheapest.latency_ms
    return Costs(energy_e, latency_e)


def _same_costs(mine: Costs, theirs: Costs) -> bool:
    return np.array_equal(mine.energy_e, theirs.energy_e) and np.array_equal(mine.latency_e, theirs.latency_e)
