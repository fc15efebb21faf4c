from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optimizer.errors import ProblemError
from optimizer.problem import Arm, Problem


def arm(name: str, *, node: str = "n", energy_j: float = 1.0, latency_ms: float = 1.0, memory: int = 1) -> Arm:
    return Arm(name, "x", node, energy_j, latency_ms, memory)


def problem(**changes: Any) -> Problem:
    given: dict[str, Any] = {
        "arms": (arm("a"), arm("b", node="m", energy_j=2.0, latency_ms=5.0)),
        "quality_qn": np.array([[0.2, 0.9], [0.8, 0.1]]),
        "weights_q": np.array([0.5, 0.5]),
    }
    return Problem(**{**given, **changes})


def test_value_is_the_weighted_best_of_the_set() -> None:
    assert problem().value((0,)) == pytest.approx(0.5)
    assert problem().value((0, 1)) == pytest.approx(0.85)
    assert problem().value(()) == 0.0


def test_energies_add_up_latency_filters_and_memory_counts_per_node() -> None:
    assert problem(energy_limit_j=3.0).fits((0, 1))
    assert not problem(energy_limit_j=2.9).fits((0, 1))
    assert not problem(latency_limit_ms=4.0).fits((1,))
    assert problem(memory_limit_bytes={"n": 1}).fits((0, 1))
    assert not problem(memory_limit_bytes={"n": 0}).fits((0,))
    assert not problem(max_active=1).fits((0, 1))


def test_a_limit_that_equals_the_sum_holds_in_any_order() -> None:
    arms = tuple(arm(str(i), energy_j=0.1) for i in range(3))
    tight = Problem(arms, np.ones((1, 3)), np.ones(1), energy_limit_j=0.3)
    assert tight.fits((0, 1, 2))
    assert tight.fits((2, 1, 0))


def test_fitting_agrees_with_fits() -> None:
    tight = problem(energy_limit_j=2.0, memory_limit_bytes={"n": 1}, max_active=1)
    for active in ((), (0,)):
        expected = [n for n in (0, 1) if n not in active and tight.fits((*active, n))]
        assert tight.fitting(active, [n for n in (0, 1) if n not in active]) == expected


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"arms": (arm("a"), arm("a"))}, "same name"),
        ({"arms": (arm("a"), arm("b", energy_j=float("nan")))}, "energy_j"),
        ({"arms": (arm("a"), arm("b", latency_ms=-1.0))}, "latency_ms"),
        ({"quality_qn": np.ones((2, 3))}, "quality_qn"),
        ({"quality_qn": np.ones((0, 2))}, "quality_qn"),
        ({"quality_qn": np.array([[0.1, np.inf], [0.0, 0.0]])}, "quality_qn"),
        ({"quality_qn": np.array([[0.1, -0.1], [0.0, 0.0]])}, "quality_qn"),
        ({"weights_q": np.ones(3)}, "weights_q"),
        ({"weights_q": np.array([1.0, np.nan])}, "weights_q"),
        ({"energy_limit_j": float("nan")}, "energy_limit_j"),
        ({"latency_limit_ms": -1.0}, "latency_limit_ms"),
        ({"max_active": -1}, "max_active"),
        ({"memory_limit_bytes": {"n": -1}}, "memory_limit_bytes"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(ProblemError, match=word):
        problem(**changes)
