"""Errors as OpenAI's clients read them, beyond what their envelope has."""

from __future__ import annotations

import pytest

from orchestrator.door.problems import openai_problem
from orchestrator.errors import EdgewiseError, Unavailable


@pytest.mark.parametrize(
    ("told", "loading"),
    [
        (
            {"state": "loading", "expert": "large", "node": "box", "etaS": "2.500", "progressFraction": "0.750"},
            {"state": "loading", "expert": "large", "node": "box", "eta_seconds": 2.5, "progress": 0.75},
        ),
        (
            {"state": "loading", "expert": "large", "node": "box", "etaS": "2.500"},
            {"state": "loading", "expert": "large", "node": "box", "eta_seconds": 2.5},
        ),
    ],
)
def test_an_expert_that_is_being_loaded_says_how_far_it_is(told: dict[str, str], loading: dict[str, object]) -> None:
    error = Unavailable("EXPERT_LOADING", "It is being loaded.", retry_after_s=2.5, metadata=dict(told))
    status, body, headers = openai_problem(error)
    assert (status, body["error"]["code"], headers["retry-after"]) == (503, "model_loading", "3")
    assert body["error"]["loading"] == loading


def test_a_pace_that_nobody_keeps_says_what_would_do() -> None:
    metadata = {"minTtftMs": "16.5", "minTpotMs": "2.0"}
    status, body, _ = openai_problem(EdgewiseError("BUDGET_INFEASIBLE", "No expert is so fast.", metadata=metadata))
    assert (status, body["error"]["min_feasible"]) == (422, {"ttft_ms": 16.5, "tpot_ms": 2.0})


def test_no_other_error_speaks_of_loads() -> None:
    _, body, _ = openai_problem(Unavailable("OVERLOADED", "Too much.", retry_after_s=1.0))
    assert "loading" not in body["error"]
