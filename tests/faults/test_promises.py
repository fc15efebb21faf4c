"""Budgets hold although actual joules and milliseconds differ from predicted ones; without margins they do not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import structlog

from orchestrator import log
from tests.faults.promises import Score, play, score
from tests.faults.world import OUTLIER_FACTOR, Q99_FACTOR, draw_world

REQUESTS = 4000
MISS_FRACTION = 0.01
ADMITTED_FRACTION = 0.95


def missed(result: Score) -> list[str]:
    """One sentence per promise that does not hold."""
    checks = (
        (
            result.joule_miss_fraction <= MISS_FRACTION,
            f"joules exceeded by {result.joule_miss_fraction:.2%} of admitted",
        ),
        (result.latency_miss_fraction <= MISS_FRACTION, f"{result.latency_miss_fraction:.2%} of admitted were late"),
        (result.spent_j <= result.budgets_j, f"{result.spent_j:.3g} J spent of {result.budgets_j:.3g} J"),
        (
            result.admitted_of_feasible_fraction >= ADMITTED_FRACTION,
            f"{result.admitted_of_feasible_fraction:.2%} of the feasible in hindsight were admitted",
        ),
    )
    return [sentence for holds, sentence in checks if not holds]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    log.configure(form="console", level="error")
    yield
    structlog.reset_defaults()
    log.requests.configure(form="console", level="info")


@pytest.mark.parametrize("seed", [0, 1])
def test_budgets_hold(seed: int) -> None:
    world = draw_world(REQUESTS, seed=seed)
    result = score(world, play(world))
    print(result)
    assert result.critical_fraction > 0.5
    assert missed(result) == []


def test_control_without_margins_the_same_check_fails() -> None:
    world = draw_world(REQUESTS // 2, seed=2)
    told = missed(score(world, play(world, margins=False)))
    assert any("joules exceeded" in sentence for sentence in told)
    assert any("were late" in sentence for sentence in told)


def test_draws_are_those_that_are_described() -> None:
    world = draw_world(4000, seed=3)
    ratios = world.energy_qn / np.array([arm.energy.energy_j for arm in world.arms])
    assert np.median(ratios) == pytest.approx(1.0, abs=0.01)
    assert np.quantile(ratios, 0.99) == pytest.approx(Q99_FACTOR, rel=0.03)
    assert 0.002 < (ratios > OUTLIER_FACTOR).mean() < 0.006
