"""The evidence of a task from what its nodes have sent: gathered anew only where that is something else.

Of many arms most are the same few experts with the same answers; and of many plans most are made because nodes came or
went. What one expert sent amiss leaves it out and spoils nothing for the others.

Shape letters: q queries, c classes, f features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from optimizer.evidence.answers import Evidence
from optimizer.evidence.texts import TextEvidence
from orchestrator.fleet.arms import ArmState
from orchestrator.fleet.evidence import EvidenceStore
from orchestrator.planning.text_evidence import Sent, gather_text
from orchestrator.types import Array, Task


class Gathering:
    """What was gathered of each task last.

    Args:
        store: What nodes have sent.
    """

    def __init__(self, store: EvidenceStore) -> None:
        self._store = store
        self._last: dict[str, tuple[tuple[Task, bool, Sent], Evidence | TextEvidence | None]] = {}

    def of(self, task: Task, states: Sequence[ArmState]) -> Evidence | TextEvidence | None:
        """The evidence of a task's experts, as far as it has come; the same object as long as nothing else has.

        Cost: a set of an arm's expert and digest, then nothing where they are those of last time.
        """
        announced = dict.fromkeys((state.arm.expert, state.arm.evidence_digest) for state in states)
        sent = tuple(one for one in announced if one[1] in self._store)
        key = task, task.reference_digest in self._store, sent
        last = self._last.get(task.name)
        if last is None or last[0] != key:
            gather = gather_text if task.text else gather_tensors
            last = self._last[task.name] = key, gather(task, sent, self._store)
        return last[1]


def gather_tensors(task: Task, sent: Sent, store: EvidenceStore) -> Evidence | None:
    """The reference set with the answers of every expert whose answers have come and fit to it; None where there are
    none.

    Args:
        task: Whose reference set it is.
        sent: Experts with the digests of their answers; of several that fit an expert's last ones count.
        store: Where they are.
    """
    reference = store.get(task.reference_digest)
    if reference is None or "inputs" not in reference or "labels" not in reference:
        return None
    shape = (len(reference["labels"]), len(task.labels))
    answers: dict[str, NDArray[np.float64]] = {}
    for expert, digest in sent:
        outputs = _outputs(store.get(digest), shape)
        if outputs is not None:
            answers[expert] = outputs
    if not answers:
        return None
    experts = tuple(sorted(answers))
    inputs = np.asarray(reference["inputs"], dtype=np.float64)
    return Evidence(
        experts=experts,
        features_qf=inputs.reshape(len(inputs), -1),
        labels_q=np.asarray(reference["labels"], dtype=np.int64),
        outputs_eqc=np.stack([answers[expert] for expert in experts]),
    )


def _outputs(sent: Mapping[str, Array] | None, shape: tuple[int, int]) -> NDArray[np.float64] | None:
    """An expert's answers (q, c); None where they are none."""
    outputs = None if sent is None else sent.get("outputs")
    if outputs is None or outputs.shape != shape or not np.isfinite(outputs).all() or not (outputs >= 0).all():
        return None
    return np.asarray(outputs, dtype=np.float64)
