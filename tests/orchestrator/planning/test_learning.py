"""Nothing is learned twice: not from the same evidence, and heads of texts not for other costs either."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from optimizer.selection.arms import Arm as PlanArm
from orchestrator.planning import learning as module
from orchestrator.planning.learning import Learning
from orchestrator.planning.snapshot import Snapshot
from tests.optimizer.evidence_maker import make_evidence
from tests.optimizer.gate.needed import needs_native
from tests.optimizer.gate.test_topics import evidence


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often each part was learned."""
    counts = {"fit_text_heads": 0, "learn_text": 0, "learn": 0}

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            return real(*arguments, **options)

        return call

    for name in counts:
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    return counts


def snapshot(task: str, found: Any, energy_j: float = 1.0) -> Snapshot:
    arms = tuple(PlanArm(f"{expert}:v@n", expert, "n", energy_j + e, 5.0, 1) for e, expert in enumerate(found.experts))
    return Snapshot(task, arms, found, None, None, {})


@needs_native
def test_texts_are_fitted_once_for_one_evidence(calls: dict[str, int]) -> None:
    known, learning = evidence(300, crossed=True), Learning()
    first = learning.model(snapshot("chat", known))
    assert learning.model(snapshot("chat", evidence(300, crossed=True))) is first
    assert calls == {"fit_text_heads": 1, "learn_text": 1, "learn": 0}
    dearer = learning.model(snapshot("chat", known, energy_j=2.0))
    assert dearer is not first
    assert calls == {"fit_text_heads": 1, "learn_text": 2, "learn": 0}
    learning.model(snapshot("chat", evidence(300, crossed=True, seed=4), energy_j=2.0))
    assert calls["fit_text_heads"] == 2
    learning.model(snapshot("other", known))
    assert calls["fit_text_heads"] == 3


def test_tensors_are_learned_anew_only_for_other_costs_or_evidence(calls: dict[str, int]) -> None:
    known, learning = make_evidence(), Learning()
    first = learning.model(snapshot("digits", known))
    assert learning.model(snapshot("digits", known)) is first
    assert learning.model(snapshot("digits", known, energy_j=3.0)) is not first
    learning.model(snapshot("digits", replace(known, labels_q=known.labels_q[::-1].copy()), energy_j=3.0))
    assert calls["learn"] == 3


def test_without_evidence_there_is_no_model() -> None:
    assert Learning().model(Snapshot("digits", (), None, None, None, {})) is None
