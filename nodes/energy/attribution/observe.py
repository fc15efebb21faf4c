"""What a sensor said, and which stretch of time each of its values speaks for.

A gauge that integrates for a part of its period only (an A100 or H100 looks for 25 ms in every 100) has a *window*,
what it saw, and a *cell*, the stretch up to the next value, that it has to stand for. A counter sees everything: its
windows are its cells. Both lie in the past by a lag that no data sheet states.

Source: Z. Yang, K. Adamek, W. Armour, "Part-time Power Measurements: nvidia-smi's Lack of Attention",
arXiv:2312.02741, for duty and period of NVIDIA's sensors.

Shape letter: k values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nodes.energy.attribution.activity import Floats


@dataclass(frozen=True)
class Observations:
    """Mean watts over windows, in the order of time; times as the reader's clock had them, lag and all.

    Attributes:
        window_low_s_k, window_high_s_k: What each value is the mean of.
        cell_low_s_k, cell_high_s_k: What each value stands for; cells follow each other without a gap.
    """

    power_w_k: Floats
    window_low_s_k: Floats
    window_high_s_k: Floats
    cell_low_s_k: Floats
    cell_high_s_k: Floats

    @property
    def size(self) -> int:
        """How many values there are."""
        return len(self.power_w_k)

    @property
    def raw_j(self) -> float:
        """Watts times the seconds that they stand for: the sensor taken at its word."""
        return float(np.sum(self.power_w_k * (self.cell_high_s_k - self.cell_low_s_k)))

    @property
    def is_counter(self) -> bool:
        """Whether every cell was seen in full."""
        return bool(
            np.array_equal(self.window_low_s_k, self.cell_low_s_k)
            and np.array_equal(self.window_high_s_k, self.cell_high_s_k)
        )

    def earlier(self, lag_s: float) -> Observations:
        """The same values, each of what happened `lag_s` before it could be read."""
        return Observations(
            self.power_w_k,
            self.window_low_s_k - lag_s,
            self.window_high_s_k - lag_s,
            self.cell_low_s_k - lag_s,
            self.cell_high_s_k - lag_s,
        )


def from_gauge(read_s_k: Sequence[float], power_w_k: Sequence[float], *, window_s: float) -> Observations:
    """Values of a gauge that averages over `window_s` before each reading. At least two readings, times rising."""
    read_s, power_w = np.asarray(read_s_k, dtype=float), np.asarray(power_w_k, dtype=float)
    centre_s = read_s - window_s / 2
    middle_s = (centre_s[1:] + centre_s[:-1]) / 2
    first_s, last_s = 2 * centre_s[0] - middle_s[0], 2 * centre_s[-1] - middle_s[-1]
    edge_s = np.concatenate([[first_s], middle_s, [last_s]])
    return Observations(power_w, read_s - window_s, read_s, edge_s[:-1], edge_s[1:])


def from_counter(read_s_k: Sequence[float], energy_j_k: Sequence[float]) -> Observations:
    """Steps of a counter: one value fewer than readings. Times rising."""
    read_s, energy_j = np.asarray(read_s_k, dtype=float), np.asarray(energy_j_k, dtype=float)
    low_s, high_s = read_s[:-1], read_s[1:]
    return Observations(np.diff(energy_j) / (high_s - low_s), low_s, high_s, low_s, high_s)
