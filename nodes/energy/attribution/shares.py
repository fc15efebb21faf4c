"""Shares that add up: what the model expects, scaled cell by cell until it agrees with the sensor.

Within a cell power has the shape that the busy intervals give it. The whole cell, idle part included, is scaled by
what the sensor said over what the model expected the sensor to say *in its window*. So the reconstructed power, looked
at through the sensor, gives back every value of it; its integral is the meter's total; and the shares and the idle
joules of a cell are parts of that integral and add up to it. Of a counter, whose windows are its cells, the total is
the counter's own step.

Shape letters: k cells, n intervals, q knots.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nodes.energy.attribution.activity import Effort, Floats
from nodes.energy.attribution.idle import IdleLine
from nodes.energy.attribution.observe import Observations

TINY_W = 1e-9


@dataclass(frozen=True)
class Shares:
    """Joules of each interval in each cell, of idle power, and of the meter.

    Attributes:
        energy_j_kn: Active joules.
        idle_j_k: Joules that flowed without any work's doing.
        total_j_k: What the meter counts for each cell.
        scale_k: Sensor over model.
    """

    energy_j_kn: Floats
    idle_j_k: Floats
    total_j_k: Floats
    scale_k: Floats


def share_out(
    effort: Effort, observed: Observations, idle: IdleLine, *, interval_w_n: Floats, idle_w_q: Floats
) -> Shares:
    """Split every cell. `observed` must have been shifted by its lag already. Cost: O(k n log t)."""
    window_s_k = observed.window_high_s_k - observed.window_low_s_k
    cell_s_k = observed.cell_high_s_k - observed.cell_low_s_k
    rest_w_k = idle.basis(observed.cell_low_s_k, observed.cell_high_s_k) @ idle_w_q
    cell_kn = effort.by_interval(observed.cell_low_s_k, observed.cell_high_s_k) * interval_w_n
    seen_kn = effort.by_interval(observed.window_low_s_k, observed.window_high_s_k) * interval_w_n
    seen_rest_w_k = idle.basis(observed.window_low_s_k, observed.window_high_s_k) @ idle_w_q
    expected_w_k = seen_kn.sum(axis=1) / window_s_k + seen_rest_w_k
    # A sensor that shows power where the model has none at all: the joules are nobody's, hence idle.
    known_k = expected_w_k > TINY_W
    scale_k = np.where(known_k, observed.power_w_k / np.where(known_k, expected_w_k, 1.0), 1.0)
    modelled_w_k = np.where(known_k, cell_kn.sum(axis=1) / cell_s_k + rest_w_k, observed.power_w_k)
    energy_j_kn = cell_kn * scale_k[:, None]
    total_j_k = observed.power_w_k * cell_s_k if observed.is_counter else modelled_w_k * scale_k * cell_s_k
    idle_j_k = rest_w_k * cell_s_k * scale_k if bool(known_k.all()) else total_j_k - energy_j_kn.sum(axis=1)
    return Shares(energy_j_kn, idle_j_k, total_j_k, scale_k)
