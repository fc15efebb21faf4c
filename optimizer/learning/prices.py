"""What a joule must buy, per profile: simulated on the reference evidence with heads that had not seen the query.

Shape letters: q queries, r routes, s stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.deciding.model import ProfilePrice
from optimizer.evidence.replay import ReplayTable
from optimizer.evidence.standard import Figures, Standard, figures_of

Floats = NDArray[np.float64]

_PRICES = 48
# Qualities this close are equal: half a tenth of a point, far less than a reference set can tell apart.
_EQUAL = 0.0005


@dataclass(frozen=True)
class Predictions:
    """What the gate would have predicted for each reference query.

    Args:
        quality_qr: Quality of each route.
        energy_qr: Expected joules of each route.
    """

    quality_qr: Floats
    energy_qr: Floats


def decide(predictions: Predictions, price_per_j: float) -> NDArray[np.int64]:
    """The route of each query at a price, (q,): the same rule as `choose` without limits."""
    score_qr = predictions.quality_qr - price_per_j * predictions.energy_qr
    tied_qr = score_qr >= score_qr.max(axis=1, keepdims=True) - 1e-12
    return np.asarray(np.where(tied_qr, predictions.energy_qr, np.inf).argmin(axis=1))


@dataclass(frozen=True)
class Options:
    """Ways to decide: a price for every query first, then one route for all.

    Args:
        figures: Of each option.
        prices: Price of each per-query option.
    """

    figures: Figures
    prices: tuple[float, ...]

    def cheapest(self, standard: Standard, rival_quality: float) -> int:
        """The option with the fewest joules among those that reach the standard."""
        good = np.flatnonzero(standard.accepts(self.figures, rival_quality))
        return int(good[self.figures.energy_j[good].argmin()])

    def profile(self, name: str, option: int) -> ProfilePrice:
        """The option as a profile's price."""
        quality, energy_j = float(self.figures.quality[option]), float(self.figures.energy_j[option])
        if option < len(self.prices):
            return ProfilePrice(name, self.prices[option], None, quality, energy_j)
        # The price decides where the pinned route is out of reach of one query's budget.
        priced = self.figures.quality[: len(self.prices)]
        as_good = np.flatnonzero(priced >= min(quality, float(priced.max())) - _EQUAL)
        return ProfilePrice(name, self.prices[int(as_good.max())], option - len(self.prices), quality, energy_j)


def build_options(table: ReplayTable, predictions: Predictions, *, rival_q: Floats, low_r: Floats) -> Options:
    """Simulate every price and every static route.

    Args:
        table: What each route did.
        predictions: What the gate would have predicted, by fits that had not seen the query.
        rival_q: 1 where the best single expert is right.
        low_r: Lower bound of each static route.
    """
    prices = _grid(predictions.energy_qr)
    priced = [table.pick(decide(predictions, price)) for price in prices]
    correct = np.column_stack([*(outcome.correct_q for outcome in priced), table.correct_qr])
    energy = np.column_stack([*(outcome.energy_q for outcome in priced), table.energy_qr])
    figures = figures_of(correct, energy, rival_q)
    low = figures.low[: len(prices)]
    # As for thresholds: a price must be good enough at the notch above it too.
    steady = np.minimum(low, np.append(low[1:], low[-1]))
    return Options(Figures(figures.quality, figures.energy_j, np.append(steady, low_r)), tuple(prices))


def price_profiles(
    options: Options, *, eco: Standard, balanced: Standard, rival_quality: float
) -> Mapping[str, ProfilePrice]:
    """The price of each profile: fewest joules at its standard.

    "best" takes the highest quality among what reaches the standard of "balanced". A profile pins one route where
    that route reaches the standard for fewer joules than deciding per query, so that the gate never costs more than
    the best static route on the reference evidence.

    Args:
        options: Ways to decide.
        eco: What "eco" must reach; the best single expert must reach it.
        balanced: What "balanced" must reach; likewise.
        rival_quality: Share of right answers of the best single expert.
    """
    accepted = balanced.accepts(options.figures, rival_quality)
    top = float(options.figures.quality[accepted].max()) - rival_quality - _EQUAL
    best = Standard(gain=top, margin=top - balanced.gain + balanced.margin)
    standards = {"eco": eco, "balanced": balanced, "best": best}
    return {
        name: options.profile(name, options.cheapest(standard, rival_quality)) for name, standard in standards.items()
    }


def _grid(energy_qr: Floats) -> list[float]:
    energy_r = energy_qr.mean(axis=0)
    positive_r = energy_r[energy_r > 0.0]
    if not len(positive_r):
        return [0.0]
    return [0.0, *np.geomspace(1e-5 / positive_r.max(), 1.0 / positive_r.min(), _PRICES).tolist()]
