"""Texts of errors that callers act on."""

from __future__ import annotations

import math
import re

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import CATALOGUE, MAX_MESSAGE_CHARS, BudgetInfeasible


@given(st.floats(1e-12, 1e9), st.floats(1e-3, 3.6e6))
def test_the_budget_that_the_text_names_would_do(energy_j: float, latency_ms: float) -> None:
    text = BudgetInfeasible(min_energy_j=energy_j, min_latency_ms=latency_ms).message
    named = re.search(r"is (\S+) J and (\S+) ms", text)
    assert named is not None
    assert energy_j <= float(named[1]) <= energy_j * 1.011
    assert latency_ms <= float(named[2]) <= latency_ms * 1.011
    assert len(text) <= MAX_MESSAGE_CHARS


def test_joules_that_nobody_knows_are_not_promised_as_infinite() -> None:
    error = BudgetInfeasible(min_energy_j=math.inf, min_latency_ms=1.0)
    assert "inf" not in error.message.split()
    assert error.reason in CATALOGUE
