"""What routes promise for one query.

Shape letters: r routes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from optimizer.frozen import frozen

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@frozen
class Promise:
    """What one route promises for one query.

    Args:
        energy_j: Expected.
        energy_bound_j: At the promise's quantile, all stages run.
        latency_ms: Expected.
        latency_bound_ms: At the promise's quantile, all stages run.
    """

    energy_j: float
    energy_bound_j: float
    latency_ms: float
    latency_bound_ms: float


@frozen
class Offer:
    """What every route promises for one query. All arrays have one entry per route; nobody writes to them later.

    Args:
        quality_r: Predicted probability of a right answer.
        energy_r: Expected joules.
        energy_bound_r: Joules at the promise's quantile, all stages run.
        latency_r: Expected milliseconds.
        latency_bound_r: Milliseconds at the promise's quantile, all stages run.
        available_r: Whether every expert of the route has an arm that takes work now.
    """

    quality_r: Floats
    energy_r: Floats
    energy_bound_r: Floats
    latency_r: Floats
    latency_bound_r: Floats
    available_r: Bools

    def promise(self, r: int, /) -> Promise:
        """What one of the routes promises."""
        return Promise(
            self.energy_r.item(r), self.energy_bound_r.item(r), self.latency_r.item(r), self.latency_bound_r.item(r)
        )

    def available(self, r: int, /) -> bool:
        """Whether one of the routes is available."""
        return bool(self.available_r[r])

    def where(self, available_r: Bools) -> Offer:
        """The same promises where these routes are available."""
        return Offer(
            self.quality_r, self.energy_r, self.energy_bound_r, self.latency_r, self.latency_bound_r, available_r
        )


class OnlyOffer(Offer):
    """The offer of a single route, of which mostly nobody asks for arrays: each is made of its numbers when asked for.

    It is neither replaced (see `where`) nor pickled.

    Args:
        quality_r: See `Offer`.
        promise: What the route promises.
        available: Whether it takes work now.
    """

    __slots__ = ("_available", "_promise")
    quality_r: Floats

    def __init__(self, quality_r: Floats, promise: Promise, *, available: bool) -> None:
        self.quality_r = quality_r
        self._promise = promise
        self._available = available

    def promise(self, _r: int, /) -> Promise:
        """See `Offer.promise`."""
        return self._promise

    def available(self, _r: int, /) -> bool:
        """See `Offer.available`."""
        return self._available

    @property
    def energy_r(self) -> Floats:
        """See `Offer`."""
        return np.array([self._promise.energy_j])

    @property
    def energy_bound_r(self) -> Floats:
        """See `Offer`."""
        return np.array([self._promise.energy_bound_j])

    @property
    def latency_r(self) -> Floats:
        """See `Offer`."""
        return np.array([self._promise.latency_ms])

    @property
    def latency_bound_r(self) -> Floats:
        """See `Offer`."""
        return np.array([self._promise.latency_bound_ms])

    @property
    def available_r(self) -> Bools:
        """See `Offer`."""
        return np.array([self._available])
