"""Cascades as arms of a plan: on which arms they stand, what they cost there, and what they need."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optimizer.selection.certify import certify
from optimizer.selection.exact import Search
from optimizer.selection.problem import Problem
from optimizer.selection.solve import solve
from orchestrator.study.arms import Arm
from orchestrator.study.cascades import Wide, with_cascades
from orchestrator.study.planning import Wish, active_arms, plan_problem
from tests.optimizer.study.cascading import agreeing_table, cascading_table

SMALL, LARGE = Arm("small", "orin", 10, 0, 1, 0, 1e9), Arm("large", "pc", 100, 0, 10, 0, 8e9)
FAST = Arm("small", "pc", 4, 0, 3, 0, 1e9)


def problem(wide: Wide, arms: list[Arm], **wish: Any) -> Problem:
    """Of a table about which a gate knows nothing but means."""
    table = wide.table
    quality_qm = np.broadcast_to(table.earned_qm.mean(axis=0), table.earned_qm.shape)
    return plan_problem(wide, np.zeros(quality_qm.shape), quality_qm, arms, Wish(**wish))


def wide_of(*, telling: bool = True, signal: str = "confidence") -> Wide:
    """With the cascades that gain something."""
    table = cascading_table(telling=telling, signal=signal)
    return with_cascades(table, np.broadcast_to(table.earned_qm.mean(axis=0), table.earned_qm.shape))


def chosen(found: Problem) -> list[str]:
    """Models and cascades of the certified plan."""
    solution = solve(found, Search(prove=True))
    assert certify(found, solution).ok
    return [arm.model for arm in active_arms(found, solution)]


def test_joules_milliseconds_and_bytes_of_all_members_add_up() -> None:
    wide = wide_of()
    assert wide.goes_on_qk is not None
    found = problem(wide, [SMALL, LARGE], mean_energy_j=6.5)
    for k, arm in enumerate(found.arms[2:]):
        goes_on_q = wide.goes_on_qk[:, k]
        np.testing.assert_array_equal(found.run_energy_qn[:, 2 + k], 1.0 + 10.0 * goes_on_q)
        assert arm.energy_j == pytest.approx(1.0 + 10.0 * goes_on_q.mean())
        assert found.latency_cn is not None
        np.testing.assert_array_equal(found.latency_cn[:, 2 + k], 110.0)
        assert (arm.memory_bytes, arm.bytes_on("orin"), arm.bytes_on("pc")) == (9e9, 1e9, 8e9)
        assert [part.name for part in arm.parts] == ["small@orin", "large@pc"]


def test_where_every_arm_may_run_a_cascade_takes_the_joules_of_all_its_arms() -> None:
    assert problem(wide_of(), [SMALL, LARGE], max_energy_j=20.0).arms[2].energy_j == 11.0


def test_the_solver_takes_a_cascade_whose_signal_tells_and_none_whose_signal_is_drawn() -> None:
    assert any(" >confidence " in name for name in chosen(problem(wide_of(), [SMALL, LARGE], mean_energy_j=6.5)))
    drawn = wide_of(telling=False)
    assert drawn.cascades == ()
    assert chosen(problem(drawn, [SMALL, LARGE], mean_energy_j=6.5)) == ["large", "small"]


@pytest.mark.parametrize(
    "limit",
    [
        {"memory_bytes": {"pc": 7e9}},
        {"memory_bytes": {"orin": 0.0}},
        {"latency_ms": {"": 105.0}},
        {"max_active": 1},
    ],
)
def test_a_cascade_needs_the_bytes_the_time_and_the_places_of_all_its_arms(limit: dict[str, Any]) -> None:
    found = problem(wide_of(), [SMALL, LARGE], mean_energy_j=6.5, **limit)
    assert [name for name in chosen(found) if ">" in name] == []


def test_it_stands_on_the_cheapest_arms_on_the_fastest_and_on_a_node_that_has_all() -> None:
    wide = wide_of()
    found = problem(wide, [SMALL, FAST, LARGE])
    first = [arm for arm in found.arms[3:] if arm.expert == wide.table.models[2]]
    assert [[part.name for part in arm.parts] for arm in first] == [
        ["small@orin", "large@pc"],
        ["small@pc", "large@pc"],
    ]
    assert [arm.latency_ms for arm in first] == [110.0, 104.0]
    assert [arm.bytes_on("pc") for arm in first] == [8e9, 9e9]


def test_two_samples_of_a_model_take_twice_its_joules_and_time_and_its_bytes_once() -> None:
    arm = problem(wide_of(signal="agreement"), [SMALL, LARGE]).arms[2]
    assert arm.latency_ms == 120.0
    assert arm.memory_bytes == 9e9


def test_two_models_side_by_side_wait_for_the_slower() -> None:
    table = agreeing_table()
    wide = with_cascades(table, np.broadcast_to(table.earned_qm.mean(axis=0), table.earned_qm.shape))
    arms = [Arm("one", "n", 10, 0, 1, 0, 1e9), Arm("two", "n", 30, 0, 1, 0, 2e9), Arm("large", "n", 200, 0, 20, 0, 8e9)]
    pair = next(arm for arm in problem(wide, arms).arms[3:] if len(arm.parts) == 3)
    assert (pair.latency_ms, pair.memory_bytes) == (230.0, 11e9)
