"""The pure functions of attribution, on cases whose answer is known by hand or by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.energy.attribution.activity import Activity, Effort
from nodes.energy.attribution.attribute import Known, attribute
from nodes.energy.attribution.observe import from_counter, from_gauge
from nodes.energy.attribution.regression import robust_non_negative
from tests.bench.bench_attribution import activity_of, counter_of, gauge_of, judge
from tests.bench.synthetic_device import Load, simulate

SHORT = Load(clients=4, recurring=True, length_s=25.0)


def test_effort_counts_what_runs_at_once() -> None:
    effort = Effort(Activity.of([(0.0, 2.0, "a"), (1.0, 3.0, "b")]), exponent=0.5)
    together = 2**-0.5
    assert effort.whole() == pytest.approx([1 + together, 1 + together])
    low_s, high_s = np.array([0.0, 1.5]), np.array([1.5, 9.0])
    assert effort.by_class(low_s, high_s) == pytest.approx(
        np.array([[1 + 0.5 * together, 0.5 * together], [0.5 * together, 1 + 0.5 * together]])
    )
    assert effort.by_interval(low_s, high_s) == pytest.approx(effort.by_class(low_s, high_s))


def test_nothing_that_runs_has_no_effort() -> None:
    effort = Effort(Activity.of([]), exponent=0.7)
    assert effort.by_class(np.array([0.0]), np.array([1.0])).shape == (1, 0)
    assert effort.whole().shape == (0,)


def test_regression_shrugs_off_outliers_and_knows_no_negative_watts() -> None:
    rng = np.random.default_rng(0)
    design = rng.uniform(0.0, 1.0, (200, 3))
    target = design @ np.array([10.0, 0.0, 50.0]) + rng.normal(0.0, 0.1, 200)
    target[::20] += 300.0
    watts, sigma = robust_non_negative(design, target)
    assert watts == pytest.approx([10.0, 0.0, 50.0], abs=0.3)
    assert (watts >= 0.0).all()
    assert sigma == pytest.approx(0.1, rel=0.6)


def test_one_request_under_a_counter_gets_everything_above_idle() -> None:
    read_s = [float(second) for second in range(11)]
    energy_j = [5.0 * second + 20.0 * min(max(second - 3.0, 0.0), 4.0) for second in range(11)]
    found = attribute(
        Activity.of([(3.0, 7.0, "a")]), from_counter(read_s, energy_j), Known(lag_s=0.0, exponent=1.0, idle_w=5.0)
    )
    assert found.energy_j_n == pytest.approx([80.0], rel=0.01)
    assert found.energy_j_n.sum() + found.idle_j == pytest.approx(energy_j[-1], rel=1e-12)


def test_a_gauge_that_sees_a_part_of_its_period_stands_for_all_of_it() -> None:
    observed = from_gauge([1.0, 2.0, 3.0], [10.0, 20.0, 30.0], window_s=0.25)
    assert observed.raw_j == pytest.approx(60.0)
    assert not observed.is_counter
    assert observed.cell_low_s_k[1:].tolist() == observed.cell_high_s_k[:-1].tolist()
    assert from_counter([0.0, 1.0, 3.0], [0.0, 10.0, 14.0]).power_w_k.tolist() == [10.0, 2.0]


@pytest.mark.parametrize("seed", [11, 12])
def test_lag_and_concurrency_are_found_and_requests_told_apart(seed: int) -> None:
    truth = simulate(SHORT, seed)
    found = attribute(activity_of(truth), gauge_of(truth))
    # The reader adds the wait for its next tick to the sensor's own lag.
    assert truth.lag_s < found.timing.lag_s < truth.lag_s + 0.1
    assert found.timing.exponent == pytest.approx(0.7, abs=0.05)
    figures = judge(truth, gauge_of(truth))
    assert figures.long_error <= 0.04
    assert figures.error <= figures.naive_error / 4
    assert figures.coverage >= 0.9
    assert figures.occupancy_long_error > 0.1
    assert figures.replay_gap_w < 1e-9


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), clients=st.integers(1, 6), recurring=st.booleans(), counter=st.booleans())
def test_shares_add_up_whatever_happens(seed: int, clients: int, recurring: bool, counter: bool) -> None:
    truth = simulate(Load(clients, recurring, length_s=8.0), seed)
    observed = counter_of(truth) if counter else gauge_of(truth)
    found = attribute(activity_of(truth), observed)
    total_j_k = found.shares.total_j_k
    parts_j_k = found.shares.energy_j_kn.sum(axis=1) + found.shares.idle_j_k
    assert np.abs(parts_j_k - total_j_k).max() <= 1e-9 * np.abs(total_j_k).max()
    assert (found.energy_j_n >= 0.0).all()
    if counter:
        assert found.total_j == pytest.approx(observed.raw_j, rel=1e-12)
