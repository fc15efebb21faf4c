"""Turns a snapshot of a late meter's history into charges: each new cell of the sensor is shared out exactly once.

Shape letters: k cells, n stretches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from nodes.energy.attribution.activity import Activity, Effort, Floats
from nodes.energy.attribution.attribute import MODEL_DOUBT_FRACTION, Attribution, Known, attribute
from nodes.energy.attribution.observe import Observations, from_counter, from_gauge
from nodes.energy.meters.history import Snapshot

MIN_VALUES = 6
DEFAULT_EXPONENT = 0.8
# Lag and exponent are kept until the next refit once so many stretches have shown them. Refits become rarer.
ENOUGH_STRETCHES = 20
SOON_S, SELDOM_S = 4.0, 60.0


@dataclass
class Charge:
    """What a piece of work has been charged so far."""

    energy_j: float = 0.0
    idle_j: float = 0.0
    variance_j2: float = 0.0
    doubt_j: float = 0.0
    stages_j: dict[str, float] = field(default_factory=dict)

    @property
    def uncertainty_j(self) -> float:
        """One standard deviation."""
        return math.hypot(math.sqrt(self.variance_j2), self.doubt_j)


@dataclass
class Learned:
    """What attributions left behind.

    Attributes:
        watts: Of each kind of work, per second of effort.
        lag_s: None until enough was seen.
        first_s: When the first readings were settled.
        fit_after_s: When lag and exponent are looked for again.
    """

    idle_w: float
    watts: dict[str, float] = field(default_factory=dict)
    exponent: float = DEFAULT_EXPONENT
    lag_s: float | None = None
    first_s: float | None = None
    fit_after_s: float = -math.inf


@dataclass(frozen=True)
class Batch:
    """What one round of settling found.

    Attributes:
        to_s: Samples up to this time have been shared out.
        happened_to_s: What happened up to this time is known now: `to_s` less the lag.
        charges: One per stretch of the snapshot.
    """

    to_s: float
    happened_to_s: float
    idle_j: float
    total_j: float
    charges: list[Charge]


def settle(snapshot: Snapshot, learned: Learned, *, window_s: float | None) -> Batch | None:
    """Attribute the new cells, and learn; None where there is too little to go by yet.

    Args:
        window_s: What a gauge averages over; None for a counter.
    """
    if len(snapshot.read_s_k) < MIN_VALUES:
        return None
    observed, to_s_k = _observations(snapshot, window_s)
    # The last cell of a gauge has no neighbour yet that says where it ends.
    new = np.flatnonzero(np.arange(observed.size) >= snapshot.first_new - (window_s is None))
    new = new[:-1] if window_s is not None else new
    if not len(new):
        return None
    to_s = float(to_s_k[new[-1]])
    if not snapshot.stretches:
        return _quiet(observed, learned, new, to_s)
    activity = Activity.of(
        [(one.start_s, end_s, one.kind) for one, end_s in zip(snapshot.stretches, snapshot.ends_s, strict=True)]
    )
    result = attribute(activity, observed, _known(learned, to_s))
    _learn(learned, activity, result, to_s)
    return _batch(snapshot, activity, observed, result, new, to_s=to_s)


def _observations(snapshot: Snapshot, window_s: float | None) -> tuple[Observations, Floats]:
    """Observations and the reading time that closes each."""
    read_s_k = np.array(snapshot.read_s_k)
    if window_s is None:
        return from_counter(snapshot.read_s_k, snapshot.value_k), read_s_k[1:]
    return from_gauge(snapshot.read_s_k, snapshot.value_k, window_s=window_s), read_s_k


def _known(learned: Learned, now_s: float) -> Known:
    if learned.lag_s is None or now_s >= learned.fit_after_s:
        return Known(idle_w=learned.idle_w)
    return Known(learned.lag_s, learned.exponent, learned.idle_w)


def _learn(learned: Learned, activity: Activity, result: Attribution, now_s: float) -> None:
    learned.watts.update(zip(activity.classes, result.timing.weight_w_a.tolist(), strict=True))
    learned.idle_w = float(result.watts.idle_w_q[-1])
    learned.first_s = now_s if learned.first_s is None else learned.first_s
    if activity.size >= ENOUGH_STRETCHES and now_s >= learned.fit_after_s:
        learned.lag_s, learned.exponent = result.timing.lag_s, result.timing.exponent
        # After as long again as it took so far, but neither at once nor hardly ever.
        learned.fit_after_s = now_s + min(max(now_s - learned.first_s, SOON_S), SELDOM_S)


def _quiet(observed: Observations, learned: Learned, new: np.ndarray, to_s: float) -> Batch:
    """Nothing ran: all of it was idle power's."""
    energy_j_k = observed.power_w_k * (observed.cell_high_s_k - observed.cell_low_s_k)
    total_j = float(energy_j_k[new].sum())
    learned.idle_w += 0.2 * (float(np.median(observed.power_w_k[new])) - learned.idle_w)
    return Batch(to_s, to_s - (learned.lag_s or 0.0), total_j, total_j, [])


def _batch(
    snapshot: Snapshot, activity: Activity, observed: Observations, result: Attribution, new: np.ndarray, *, to_s: float
) -> Batch:
    shares, late = result.shares, observed.earlier(result.timing.lag_s)
    energy_j_kn = shares.energy_j_kn[new]
    equal_s_kn = Effort(activity, 0.0).by_interval(late.cell_low_s_k[new], late.cell_high_s_k[new])
    idle_w_k = shares.idle_j_k[new] / (late.cell_high_s_k - late.cell_low_s_k)[new]
    noise = float(np.std(shares.scale_k))
    relative_n = result.watts.sigma_w_n / np.maximum(result.watts.interval_w_n, 1e-9)
    charges = []
    for n, stretch in enumerate(snapshot.stretches):
        energy_j = float(energy_j_kn[:, n].sum())
        charge = Charge(
            energy_j=energy_j,
            idle_j=float(equal_s_kn[:, n] @ idle_w_k),
            variance_j2=float(noise**2 * np.sum(energy_j_kn[:, n] ** 2)),
            doubt_j=energy_j * math.hypot(min(float(relative_n[n]), 1.0), MODEL_DOUBT_FRACTION),
            stages_j={stretch.stage: energy_j} if stretch.stage else {},
        )
        charges.append(charge)
    total_j, idle_j = float(shares.total_j_k[new].sum()), float(shares.idle_j_k[new].sum())
    return Batch(to_s, float(late.cell_high_s_k[new[-1]]), idle_j, total_j, charges)
