"""What a join storm showed, and what it is held to."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np

from tests.faults.history import p99_ms

REGISTERED_S = 15.0
REST_CORE_FRACTION = 0.10
RSS_BYTES = 300e6
P99_RATIO = 1.5
# The ratio of a single storm says little on a shared machine.
RATIO_FROM_STORMS = 3
# No agent waits longer than this before it dials again.
RECONNECT_S = 7.0


@dataclass(frozen=True)
class Size:
    """How large a run is."""

    crowds: int = 4
    nodes: int = 50
    storms: int = 9
    # Of strangers, here and elsewhere.
    strange: int = 5
    restarts: int = 3
    # Of the load before a storm, and of that beside it.
    phase_s: float = 4.0
    rest_s: float = 60.0

    @property
    def all_nodes(self) -> int:
        """Together."""
        return self.crowds * self.nodes


@dataclass
class Storms:
    """Storms of one kind."""

    joined_s: list[float] = field(default_factory=list)
    calm_ms: list[list[float]] = field(default_factory=list)
    storm_ms: list[list[float]] = field(default_factory=list)
    # Processor milliseconds of the gateway that each node's coming took beyond the load's own.
    join_cpu_ms: list[float] = field(default_factory=list)
    # Part of the time in which the event loop wanted a core that others had, before and beside.
    core_waits: list[tuple[float, float]] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """How many were asked, before and beside."""
        return sum(map(len, self.calm_ms)) + sum(map(len, self.storm_ms))

    @property
    def p99_ratios(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """99th percentile during each storm over that before it."""
        return np.array([p99_ms(storm) / p99_ms(calm) for calm, storm in zip(self.calm_ms, self.storm_ms, strict=True)])

    @property
    def p99_ratio(self) -> float:
        """Their median."""
        return float(np.median(self.p99_ratios)) if self.calm_ms else np.nan

    def figures(self) -> dict[str, object]:
        """What is kept."""
        return {
            "joined_s_median": round(float(np.median(self.joined_s)), 3),
            "joined_s_max": round(max(self.joined_s), 3),
            "p99_calm_ms": round(p99_ms([ms for one in self.calm_ms for ms in one]), 3),
            "p99_storm_ms": round(p99_ms([ms for one in self.storm_ms for ms in one]), 3),
            "p99_ratio_median": round(self.p99_ratio, 3),
            "p99_ratios": self.p99_ratios.round(2).tolist(),
            "core_waits_median": np.median(self.core_waits, axis=0).round(4).tolist(),
            "join_cpu_ms_median": round(float(np.median(self.join_cpu_ms)), 2),
        }

    def beside(self, name: str) -> dict[str, object]:
        """What is kept of restarts."""
        return {
            f"{name}_p99_ms": [round(p99_ms(one), 3) for one in self.storm_ms],
            f"{name}_p99_after_ms": [round(p99_ms(one), 3) for one in self.calm_ms],
            f"{name}_p99_ratio_median": round(self.p99_ratio, 3),
        }


@dataclass
class Found:
    """What one run showed."""

    size: Size
    back: Storms = field(default_factory=Storms)
    strangers: Storms = field(default_factory=Storms)
    elsewhere: Storms = field(default_factory=Storms)
    # Beside the return of all after a cold restart, and afterwards.
    cold: Storms = field(default_factory=Storms)
    alone: Storms = field(default_factory=Storms)
    failed: dict[str, int] = field(default_factory=dict)
    cold_failed: dict[str, int] = field(default_factory=dict)
    rest_core_fraction: float = 0.0
    rss_bytes: int = 0
    spread_s: list[float] = field(default_factory=list)
    plans: int = 0
    # Whether cores were kept from halting, before the storms and in them.
    cores_awake: bool = False
    # What else wants the cores: with more than there are, latencies say more of that than of the storm.
    machine_load: float = field(default_factory=lambda: os.getloadavg()[0])

    def figures(self) -> dict[str, object]:
        """What is kept."""
        beside = {"strangers": self.strangers, "elsewhere": self.elsewhere}
        return {
            "nodes": self.size.all_nodes,
            "storms": self.size.storms,
            "requests": sum(one.requests for one in (self.back, self.strangers, self.elsewhere)),
            "failed": self.failed,
            **self.back.figures(),
            **{
                f"{name}_{key}": value
                for name, one in beside.items()
                if one.joined_s
                for key, value in one.figures().items()
            },
            "rest_s": self.size.rest_s,
            "rest_core_fraction": round(self.rest_core_fraction, 4),
            "rss_mb": round(self.rss_bytes / 1e6, 1),
            "restarts": len(self.spread_s),
            "registered_s": round(max(self.cold.joined_s), 3),
            "rejoin_spread_s": round(max(self.spread_s), 3),
            **self.cold.beside("cold"),
            **(self.alone.beside("cold_alone") if self.alone.joined_s else {}),
            "cold_failed": self.cold_failed,
            "plans": self.plans,
            "cores_awake": self.cores_awake,
            "machine_load": round(self.machine_load, 1),
        }

    def missed(self) -> list[str]:
        """One sentence per bar that does not hold."""
        told, registered_s = self.figures(), max(self.cold.joined_s)
        checks = (
            (registered_s <= REGISTERED_S, f"all were back {registered_s:.1f} s after a cold restart"),
            (max(self.back.joined_s) <= REGISTERED_S, f"a storm took {max(self.back.joined_s):.1f} s to join"),
            (max(self.spread_s) <= RECONNECT_S + 1.0, f"the last came {max(self.spread_s):.1f} s after the first"),
            (
                self.rest_core_fraction <= REST_CORE_FRACTION,
                f"at rest the gateway took {self.rest_core_fraction:.3f} of a core",
            ),
            (self.rss_bytes <= RSS_BYTES, f"the gateway took {told['rss_mb']} MB"),
            (not self.failed, f"requests failed: {self.failed}"),
            (
                self.size.storms < RATIO_FROM_STORMS or self.back.p99_ratio <= P99_RATIO,
                f"p99 in a storm is {self.back.p99_ratio:.2f} times that before",
            ),
            (
                len(self.cold.joined_s) < RATIO_FROM_STORMS or self.cold.p99_ratio <= P99_RATIO,
                f"p99 while all come back after a cold restart is {self.cold.p99_ratio:.2f} times that afterwards",
            ),
        )
        return [f"join_storm: {sentence}" for holds, sentence in checks if not holds]
