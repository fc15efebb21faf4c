"""The online decision: one route for one query, within its own joules and milliseconds.

Shape letters: r routes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer.deciding.promise import Offer

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Binding(StrEnum):
    """Which limit kept the choice from what it would have been without limits."""

    NONE = "none"
    ENERGY = "energy"
    LATENCY = "latency"
    AVAILABILITY = "availability"


class Limits(NamedTuple):
    """Hard limits of one request, held against the bounds; `None` for no limit."""

    energy_j: float | None = None
    latency_ms: float | None = None


class Price(NamedTuple):
    """What joules and milliseconds cost, in quality (fraction of right answers).

    Args:
        per_j: Quality that one joule must buy.
        per_ms: Quality that one millisecond must buy.
        pinned: Route to take whenever it is feasible; `None` decides every query by score.
    """

    per_j: float = 0.0
    per_ms: float = 0.0
    pinned: int | None = None


@dataclass(frozen=True, slots=True)
class Fallback:
    """What could be done where nothing fits.

    Args:
        cheapest: Available route with the fewest expected joules.
        least_overrun: Available route that exceeds its limits by the smallest factor.
        min_energy_j: Together with `min_latency_ms` a budget that would do.
        min_latency_ms: See `min_energy_j`.
    """

    cheapest: int
    least_overrun: int
    min_energy_j: float
    min_latency_ms: float


@dataclass
class Choice:
    """The decision and what it was made on. What only an explanation needs is worked out when it is asked for.

    Args:
        index: The chosen route, `None` when no available route fits.
        feasible_r: Routes that are available and fit.
        offer: What was chosen from.
        limits: What had to be kept.
        price: What joules and milliseconds cost.
    """

    index: int | None
    feasible_r: Bools
    offer: Offer
    limits: Limits
    price: Price

    @cached_property
    def score_r(self) -> Floats:
        """Quality minus the price of joules and milliseconds."""
        offer, price = self.offer, self.price
        score_r = offer.quality_r - price.per_j * offer.energy_r
        if price.per_ms:
            score_r -= price.per_ms * offer.latency_r
        return score_r

    @cached_property
    def runner_up(self) -> int | None:
        """The next best route that fits."""
        if self.index is None:
            return None
        masked_r = np.where(self.feasible_r, self.score_r, -np.inf)
        masked_r[self.index] = -np.inf
        return _best(masked_r, self.offer, None)

    @cached_property
    def binding(self) -> Binding:
        """Which limit removed the route that would have been chosen without limits."""
        return _binding(self.offer, self.limits, _best(self.score_r, self.offer, self.price.pinned))

    @cached_property
    def fallback(self) -> Fallback | None:
        """Where `index` is `None` and some route is available: what could be done instead."""
        return None if self.index is not None else _fallback(self.offer, self.limits)


def choose(offer: Offer, *, limits: Limits, price: Price) -> Choice:
    """Take the best score among the routes that fit; equal scores go to fewer joules, then to fewer
    milliseconds, then to the lower index.

    Args:
        offer: What every route promises for this query. Entries of unavailable routes may be NaN.
        limits: Hard limits, held against the bounds.
        price: What joules and milliseconds cost.

    Returns:
        The choice. Nothing that fits is `index=None`, not an exception.

    Cost: half a dozen numpy calls on arrays of r entries, 10 µs for 60 routes.
    """
    if len(offer.quality_r) == 1:
        return _choose_only(offer, limits, price)
    choice = Choice(None, _feasible(offer, limits), offer, limits, price)
    choice.index = _taken(choice)
    return choice


def _choose_only(offer: Offer, limits: Limits, price: Price) -> Choice:
    """The same where there is one route: a few numbers are compared sooner than arrays of one entry."""
    (energy_j, latency_ms), promise = limits, offer.promise(0)
    fits = (
        offer.available(0)
        and (energy_j is None or promise.energy_bound_j <= energy_j)
        and (latency_ms is None or promise.latency_bound_ms <= latency_ms)
    )
    if not fits:
        return Choice(None, _NOT_THE_ONLY, offer, limits, price)
    return Choice(0 if price.pinned == 0 else _if_worth_anything(0, offer, price), _THE_ONLY, offer, limits, price)


def narrowed(choice: Choice, energy_j: float) -> Choice:
    """The same choice with fewer joules: what was worked out for it is not worked out again.

    Args:
        choice: Of the same request with more joules, or without a limit.
        energy_j: The limit from here on.
    """
    offer, limits = choice.offer, Limits(energy_j, choice.limits.latency_ms)
    less = Choice(None, choice.feasible_r & (offer.energy_bound_r <= energy_j), offer, limits, choice.price)
    # Scores do not hang on the limits.
    vars(less)["score_r"] = choice.score_r
    less.index = _taken(less)
    return less


# Whether the only route fits.
_NOT_THE_ONLY, _THE_ONLY = np.zeros(1, dtype=bool), np.ones(1, dtype=bool)
_NOT_THE_ONLY.setflags(write=False)
_THE_ONLY.setflags(write=False)
# Scores closer than this are equal: far below what a quality estimate can tell apart.
_TIE = 1e-12


def _feasible(offer: Offer, limits: Limits) -> Bools:
    feasible_r = offer.available_r
    if limits.energy_j is not None:
        feasible_r = feasible_r & (offer.energy_bound_r <= limits.energy_j)
    if limits.latency_ms is not None:
        feasible_r = feasible_r & (offer.latency_bound_r <= limits.latency_ms)
    return feasible_r


def _taken(choice: Choice) -> int | None:
    """Index of the pinned route where it fits, else of the best score among those that do."""
    pinned = choice.price.pinned
    if pinned is not None and choice.feasible_r[pinned]:
        return pinned
    fitting = choice.feasible_r.nonzero()[0]
    if len(fitting) < 2:
        # An expert asked for by name on one node, or little time: there is nothing to compare.
        return _if_worth_anything(fitting.item(), choice.offer, choice.price) if len(fitting) else None
    best = _best_of(choice.score_r[fitting], choice.offer, fitting)
    return None if best is None else int(fitting[best])


def _if_worth_anything(r: int, offer: Offer, price: Price) -> int | None:
    """A route unless its score is out, see `_best`."""
    promise = offer.promise(r)
    score = offer.quality_r.item(r) - price.per_j * promise.energy_j
    if price.per_ms:
        score -= price.per_ms * promise.latency_ms
    return r if score > -math.inf else None


def _best(score_r: Floats, offer: Offer, pinned: int | None) -> int | None:
    """Index of the best score; -inf and NaN are out, `pinned` wins wherever it is in."""
    if pinned is not None and score_r[pinned] > -np.inf:
        return pinned
    return _best_of(score_r, offer, None)


def _best_of(score_r: Floats, offer: Offer, routes: NDArray[np.intp] | None) -> int | None:
    """Index of the best of some scores; of equal ones that with the fewest joules, then the one that is there first.

    Args:
        score_r: Of the routes; -inf and NaN are out.
        offer: What all routes promise.
        routes: Which ones the scores are of; None for all.
    """
    top = np.fmax.reduce(score_r, initial=-np.inf)
    if top == -np.inf:
        return None
    tied = (score_r >= top - _TIE).nonzero()[0]
    if len(tied) > 1:
        rows = tied if routes is None else routes[tied]
        energy_r = offer.energy_r[rows]
        least = (energy_r == energy_r.min()).nonzero()[0]
        tied = tied[least]
        if len(tied) > 1:
            return int(tied[offer.latency_r[rows[least]].argmin()])
    return int(tied[0])


def _binding(offer: Offer, limits: Limits, wanted: int | None) -> Binding:
    """Why the route that was wanted regardless of limits is out, if it is."""
    if wanted is None or not offer.available_r[wanted]:
        return Binding.AVAILABILITY
    over_energy = _overrun(float(offer.energy_bound_r[wanted]), limits.energy_j)
    over_latency = _overrun(float(offer.latency_bound_r[wanted]), limits.latency_ms)
    if max(over_energy, over_latency) <= 1.0:
        return Binding.NONE
    return Binding.ENERGY if over_energy >= over_latency else Binding.LATENCY


def _overrun(bound: float, limit: float | None) -> float:
    """Factor by which a bound exceeds its limit; a limit of 0 is met by 0 alone."""
    if limit is None or bound <= limit:
        return 1.0
    return bound / limit if limit > 0.0 else np.inf


def _overruns(bound_r: Floats, limit: float | None) -> Floats:
    """`_overrun` of many."""
    if limit is None:
        return np.ones(len(bound_r))
    if limit <= 0.0:
        return np.where(bound_r <= limit, 1.0, np.inf)
    # The least limits that there are make factors beyond all numbers, which is as good as infinite.
    with np.errstate(over="ignore"):
        return np.where(bound_r <= limit, 1.0, bound_r / limit)


def _fallback(offer: Offer, limits: Limits) -> Fallback | None:
    open_r = np.flatnonzero(offer.available_r)
    if not len(open_r):
        return None
    energy_r = offer.energy_r[open_r]
    over_energy_r = _overruns(offer.energy_bound_r[open_r], limits.energy_j)
    overrun_r = np.maximum(over_energy_r, _overruns(offer.latency_bound_r[open_r], limits.latency_ms))
    needed = _smallest_budget(offer, limits, open_r)
    return Fallback(
        cheapest=int(open_r[energy_r.argmin()]),
        least_overrun=int(open_r[_first_least(overrun_r, energy_r)]),
        min_energy_j=float(offer.energy_bound_r[needed]),
        min_latency_ms=float(offer.latency_bound_r[needed]),
    )


def _first_least(first: Floats, second: Floats) -> int:
    """The place of the smallest value, among equals that of the smallest second value."""
    return int(np.where(first == first.min(), second, np.inf).argmin())


def _smallest_budget(offer: Offer, limits: Limits, open_r: NDArray[np.intp]) -> int:
    """The route whose bounds are the budget to ask for.

    The fewest joules within the latency limit; where no route is within it, the route that is done first.
    """
    latency_r = offer.latency_bound_r[open_r]
    in_time = open_r if limits.latency_ms is None else open_r[latency_r <= limits.latency_ms]
    if len(in_time):
        return int(in_time[offer.energy_bound_r[in_time].argmin()])
    return int(open_r[_first_least(latency_r, offer.energy_bound_r[open_r])])
