"""What is left to chance, drawn per request and not per event: the same in every scenario that is compared.

Request q has the same luck with its milliseconds and joules wherever it runs, so that two fleets differ by what they
do and not by what they were dealt (common random numbers).

Shape letters: a attempts, q requests; 2 is milliseconds and joules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.simulation.world import Expert

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Luck:
    """Standard normal numbers of one run of one request: how long it takes, and what else sways its joules."""

    service: float
    energy: float


class Chance:
    """Luck by request and attempt.

    Args:
        seed: Equal seeds deal alike.
        count: How many requests there are.
    """

    def __init__(self, seed: int, count: int) -> None:
        self._seed = seed
        self._count = count
        self._dealt_aq2: list[Floats] = []

    def of(self, request: int, attempt: int) -> Luck:
        """Luck of one attempt (counted from 0)."""
        while len(self._dealt_aq2) <= attempt:
            # All requests at once: a generator of its own for each attempt takes longer than all else that it does.
            rng = np.random.default_rng((self._seed, 1, len(self._dealt_aq2)))
            self._dealt_aq2.append(rng.standard_normal((self._count, 2)))
        service, energy = self._dealt_aq2[attempt][request].tolist()
        return Luck(service, energy)


def service_ms(expert: Expert, luck: Luck) -> float:
    """Milliseconds of one run."""
    if expert.samples_ms:
        return expert.samples_ms[_place(luck.service, len(expert.samples_ms))]
    return expert.p50_ms * math.exp(expert.sigma * luck.service)


def energy_j(expert: Expert, ms: float, luck: Luck) -> float:
    """Joules of one run: they follow its milliseconds, and stray besides; NaN where nobody knows them."""
    if expert.energy_j is None:
        return math.nan
    sigma = expert.energy_sigma
    stray = math.exp(sigma * luck.energy - 0.5 * sigma**2) if sigma else 1.0
    return expert.energy_j * (ms / expert.mean_ms) * stray


def _place(normal: float, count: int) -> int:
    """The quantile of a normal number among so many ordered samples."""
    return min(count - 1, int(0.5 * math.erfc(-normal / math.sqrt(2.0)) * count))
