"""Requests, budgets and what every arm would really take for them, drawn before a run, so that hindsight is exact.

Every piece of work takes

    actual = announced x lognormal(sigma = 0.3), one in 200 of them three times that,

drawn apart for joules and milliseconds, for each request and each arm.

Shape letters: q requests, n arms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nodes.energy.profile import load_profile
from nodes.zoo.catalog import Catalog, load_catalog
from nodes.zoo.digest import tensor_digest
from orchestrator.types import Arm, Energy, Provenance

Floats = NDArray[np.float64]

SIGMA = 0.3
OUTLIER_FRACTION, OUTLIER_FACTOR = 0.005, 3.0
# 99 % quantile of both together over the median.
Q99_FACTOR = 2.14
# 95 % quantile of the lognormal over its median: what a node would announce as p95 / p50.
P95_FACTOR = 1.64
# Milliseconds of an inference: fixed share and multiply-accumulates per millisecond; 1 to 21 ms over all arms.
SPEED = {"jetson-agx-orin": (3.0, 8e5), "rtx-4090": (2.0, 4e6), "laptop-cpu": (1.0, 3e5)}
ENERGY_FACTORS = (1.0, 20.0)
LATENCY_MS = (4.0, 100.0)
PROFILES = ("eco", "balanced", "best")
MEAN_GAP_S = 0.1


@dataclass(frozen=True)
class World:
    """Everything that is drawn before the run.

    Args:
        arms: All arms.
        energy_qn: Joules that each arm would take for each request.
        ms_qn: Milliseconds that it would take.
        energy_limit_q: Budgets.
        ms_limit_q: Budgets.
    """

    catalog: Catalog
    arms: tuple[Arm, ...]
    energy_qn: Floats
    ms_qn: Floats
    energy_limit_q: Floats
    ms_limit_q: Floats
    gap_s_q: Floats
    sample_q: NDArray[np.intp]
    profile_q: NDArray[np.str_]

    @property
    def requests(self) -> int:
        """How many."""
        return len(self.energy_limit_q)

    def critical_q(self) -> NDArray[np.bool_]:
        """Requests for which margins matter: an arm's predictions fit, but a 99 % quantile of it does not."""
        energy_n, ms_n = _predicted(self.arms)
        fits_qn = (energy_n <= self.energy_limit_q[:, None]) & (ms_n <= self.ms_limit_q[:, None])
        surely_qn = (Q99_FACTOR * energy_n <= self.energy_limit_q[:, None]) & (
            Q99_FACTOR * ms_n <= self.ms_limit_q[:, None]
        )
        return np.asarray((fits_qn & ~surely_qn).any(axis=1))

    def feasible_q(self) -> NDArray[np.bool_]:
        """Requests for which, in hindsight, some single arm stays within both limits."""
        within_qn = (self.energy_qn <= self.energy_limit_q[:, None]) & (self.ms_qn <= self.ms_limit_q[:, None])
        return np.asarray(within_qn.any(axis=1))


def draw_world(requests: int, *, seed: int) -> World:
    """Draw a world.

    Joules: each request takes one arm at random and may spend 1 to 20 times (log-uniform) what that arm is predicted
    to take; a quarter of these budgets lies below 2.1 times, the 99 % quantile of what it takes. Milliseconds: 4 to
    100 (log-uniform), where the fastest arm of each node is predicted to take 1, 2 and 3, and the slowest 21.
    """
    rng = np.random.default_rng(seed)
    catalog = load_catalog()
    # The dense experts: with joules far enough apart for every margin to matter, and as earlier figures had them.
    catalog = replace(catalog, experts=tuple(card for card in catalog.experts if card.engine == "onnx"))
    arms = tuple(_arm(catalog, number, profile) for profile in SPEED for number in range(len(catalog.experts)))
    energy_n, ms_n = _predicted(arms)
    return World(
        catalog=catalog,
        arms=arms,
        energy_qn=energy_n * _noise(rng, (requests, len(arms))),
        ms_qn=ms_n * _noise(rng, (requests, len(arms))),
        energy_limit_q=rng.choice(energy_n, requests) * _log_uniform(rng, ENERGY_FACTORS, requests),
        ms_limit_q=_log_uniform(rng, LATENCY_MS, requests),
        gap_s_q=rng.exponential(MEAN_GAP_S, requests),
        sample_q=rng.integers(0, len(catalog.reference.labels_n), requests),
        profile_q=rng.choice(PROFILES, requests),
    )


def _predicted(arms: Sequence[Arm]) -> tuple[Floats, Floats]:
    return np.array([arm.energy.energy_j for arm in arms]), np.array([arm.p50_ms for arm in arms])


def _noise(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    outlier = rng.random(shape) < OUTLIER_FRACTION
    return rng.lognormal(0.0, SIGMA, shape) * np.where(outlier, OUTLIER_FACTOR, 1.0)


def _log_uniform(rng: np.random.Generator, between: tuple[float, float], requests: int) -> Floats:
    low, high = np.log(between)
    return np.asarray(np.exp(rng.uniform(low, high, requests)))


def _arm(catalog: Catalog, number: int, profile: str) -> Arm:
    card = catalog.experts[number]
    fixed_ms, macs_per_ms = SPEED[profile]
    p50_ms = fixed_ms + card.macs / macs_per_ms
    return Arm(
        expert=card.name,
        variant=card.variant,
        node=profile,
        task=catalog.task.name,
        engine=card.engine,
        model_digest=card.sha256,
        macs=card.macs,
        memory_bytes=card.memory_bytes,
        p50_ms=p50_ms,
        p95_ms=p50_ms * P95_FACTOR,
        latency_provenance=Provenance.MEASURED,
        energy=Energy(load_profile(profile).energy_j(card.macs), Provenance.MODELLED, f"profile:{profile}+noise"),
        quality_fraction=card.quality.accuracy_fraction,
        quality_samples=card.quality.samples,
        evidence_digest=tensor_digest(catalog.evidence_tensors(card)),
    )
