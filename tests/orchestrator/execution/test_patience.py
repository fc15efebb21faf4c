"""How long an attempt may take before another arm is tried."""

import pytest

from orchestrator.execution.attempt import MIN_PATIENCE_S, PATIENCE_FACTOR, patience_for_s


def test_patience_is_a_multiple_of_the_bound_between_its_limits() -> None:
    assert patience_for_s(1.0, 2.0) == MIN_PATIENCE_S
    assert patience_for_s(100.0, 2.0) == pytest.approx(0.1 * PATIENCE_FACTOR)
    assert patience_for_s(900.0, 2.0) == 2.0
