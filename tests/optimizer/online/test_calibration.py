"""Calibration: what was said stands until outcomes deny it, and then gives way to what holds."""

from __future__ import annotations

import numpy as np
import pytest

from optimizer.online.calibration import Calibration


def told(right: float, *, said: float = 0.7, outcomes: int = 200, seed: int = 0) -> Calibration:
    """Outcomes of statements around `said`, right with probability `right`."""
    rng, calibration = np.random.default_rng(seed), Calibration()
    for _ in range(outcomes):
        calibration.observe(float(np.clip(said + rng.normal(0.0, 0.05), 0.01, 0.99)), float(rng.random() < right))
    return calibration


def test_without_outcomes_what_was_said_stands() -> None:
    assert [Calibration().calibrated(said) for said in (0.0, 0.3, 1.0)] == [0.0, 0.3, 1.0]


@pytest.mark.parametrize("seed", range(20))
def test_outcomes_that_agree_change_nothing_or_little(seed: int) -> None:
    assert told(0.7, seed=seed).calibrated(0.7) == pytest.approx(0.7, abs=0.06)


@pytest.mark.parametrize("right", [0.2, 0.5, 0.9, 1.0])
def test_many_outcomes_are_believed(right: float) -> None:
    assert told(right, outcomes=500).calibrated(0.7) == pytest.approx(right, abs=0.08)


def test_few_outcomes_are_not_and_what_is_given_back_lies_between() -> None:
    assert told(1.0, outcomes=3).calibrated(0.7) == pytest.approx(0.7, abs=0.03)
    found = [told(0.2, outcomes=count).calibrated(0.7) for count in (5, 20, 100, 500)]
    assert found == sorted(found, reverse=True)
    assert 0.2 < found[-1] < 0.3


def test_the_interval_holds_what_is_true_in_most_cases() -> None:
    """Of a quality that holds, at most a fifth of all samples claim that it does not: one tenth on either side."""
    changed = sum(told(0.7, seed=seed, outcomes=60).calibrated(0.7) != 0.7 for seed in range(200))
    assert changed <= 50


def test_what_differs_by_query_stays_so() -> None:
    rng, calibration = np.random.default_rng(1), Calibration()
    for _ in range(500):
        said = float(rng.uniform(0.3, 0.9))
        calibration.observe(said, float(rng.random() < said * 0.6))
    assert calibration.calibrated(0.85) == pytest.approx(0.51, abs=0.1)
    assert calibration.calibrated(0.4) == pytest.approx(0.24, abs=0.1)


def test_outcomes_that_are_partly_right_and_statements_at_the_ends() -> None:
    calibration = Calibration()
    for _ in range(300):
        calibration.observe(1.0, 0.5)
        calibration.observe(0.0, 0.5)
    assert calibration.calibrated(1.0) == pytest.approx(0.5, abs=0.1)
    assert calibration.calibrated(0.0) == pytest.approx(0.5, abs=0.1)


def test_old_outcomes_leave() -> None:
    calibration = Calibration(window=100)
    for score in (0.0, 1.0):
        for _ in range(100):
            calibration.observe(0.7, score)
    assert calibration.count == 100
    assert calibration.calibrated(0.7) > 0.9
