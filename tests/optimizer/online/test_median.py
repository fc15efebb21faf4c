"""The running median is the median, whatever comes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from optimizer.online.median import RunningMedian


@given(
    window=st.integers(1, 9),
    values=st.lists(st.one_of(st.floats(-1e6, 1e6), st.sampled_from([0.0, -0.0, 1.0])), min_size=1, max_size=60),
)
def test_it_is_the_median_of_the_newest(window: int, values: list[float]) -> None:
    kept = RunningMedian(window)
    for end, value in enumerate(values, start=1):
        newest = values[max(0, end - window) : end]
        assert kept.append(value) == len(newest)
        assert kept.value == np.median(newest)
