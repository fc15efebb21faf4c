"""Keeps a long-run budget by the price of a joule: an account, and a curve to read the price from.

The account accrues what may be spent (joules per request, or watts), pays for what is chosen at once and is corrected
when the real joules are known. The target for the next queries is the budget plus the account spread over a horizon;
the prices are read off the curve of recent queries (`curve.SpendCurve`) at that target. So the curve answers drift of
the queries without creeping, and the account, being an integral, leaves no lasting error where the curve is wrong. As
the account nears the burst allowance on either side its weight grows without bound, so that whatever can be done to
stay within is done.

Beyond the price there is a brake: a route is out of reach when its reservation exceeds the balance and the burst
allowance together, but for the cheapest one, so that requests keep flowing. Hence, where reservations cover what is
really spent and the cheapest route costs no more than the budget, at every instant

    spent <= accrued + burst allowance.

Under overload the routes within the budget may all be too late for a request that a dearer one could serve. Whoever
may turn it away adds an option of no quality at the joules that the request brings (`decline_j`): the same argmax then
serves exactly those that are worth it.

Source: dual control of budgets as in Balseiro, Lu, Mirrokni (arXiv 2011.10124), with the re-solved dual of the recent
sample in place of a gradient step (re-solving as in Agrawal, Wang, Ye, arXiv 0911.2974).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import OptimizerError
from optimizer.online.curve import SpendCurve

Floats = NDArray[np.float64]

# Requests over which a surplus or a debt is worked off; 1/12 of the traffic on which ±2 % is to hold.
HORIZON_REQUESTS = 256.0
# Weight of the newest gap between arrivals.
SMOOTHING = 1.0 / 64.0
# Weight of the newest joules in the ratio of actual to expected. Small: a cascade takes a thousandth of its expected
# joules or ten times them, and what this ratio misses is the account's to correct.
BIAS_SMOOTHING = 1.0 / 512.0
# An idle period says little about the gaps that follow it, and is in the account already.
IDLE_GAPS = 4.0
# Debt beyond this many burst allowances is written off: only an infeasible budget gets there.
FORGIVEN_BURSTS = 2.0
# At the burst allowance the account outweighs any curve.
_LEAST_ROOM = 1e-6


class PacingStatus(StrEnum):
    """How the budget stands."""

    WAITING = "waiting"  # too few queries yet: the price that was there before holds
    HELD = "held"
    SLACK = "slack"  # joules are free: everything is affordable
    INFEASIBLE = "infeasible"  # even the cheapest choices cost more than the budget


@dataclass(frozen=True, slots=True)
class Allowance:
    """A long-run budget; exactly one of the first two.

    Args:
        per_request_j: Mean joules per request.
        power_w: Mean watts; idle time accrues up to the burst allowance.
        burst_requests: Burst allowance of `per_request_j`, in requests' worth of it.
        burst_s: Burst allowance of `power_w`, in seconds' worth of it.

    Raises:
        OptimizerError: Not exactly one budget, or a value that is not finite and positive.
    """

    per_request_j: float | None = None
    power_w: float | None = None
    burst_requests: float = 256.0
    burst_s: float = 60.0

    def __post_init__(self) -> None:
        if (self.per_request_j is None) == (self.power_w is None):
            raise OptimizerError("A long-run budget is either joules per request or watts.")
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not (math.isfinite(value) and value > 0.0):
                raise OptimizerError(f"{field.name} must be finite and positive.")

    @property
    def burst_j(self) -> float:
        """The most that may be spent beyond what has accrued, and the most that is saved up."""
        if self.per_request_j is not None:
            return self.per_request_j * self.burst_requests
        return (self.power_w or 0.0) * self.burst_s


@dataclass(slots=True)
class PacerState:
    """The account as plain numbers, so that it can be written down and taken up again.

    Args:
        balance_j: Accrued minus spent, corrected for what was lost or forgiven.
        price_per_j: Price in force.
        accrued_j: All that could have been spent.
        spent_j: What was spent: settled, and expected where not settled yet.
        lost_j: Accrued beyond what may be saved up.
        written_off_j: Debt beyond what could be worked off.
        requests: How many were charged.
        seen_s: When the last request came, on the caller's clock; NaN before the first.
        gap_s: Typical seconds between requests; NaN before the second.
        actual_j: Moving average of settled joules, in force together with `expected_j`.
        expected_j: The same of what was expected of them.
        in_flight_j: Reserved beyond the expectation by requests that are under way.
        phase: Shares of the lower price that are due; whoever brings it to 1 gets that price.
    """

    balance_j: float = 0.0
    price_per_j: float = 0.0
    accrued_j: float = 0.0
    spent_j: float = 0.0
    lost_j: float = 0.0
    written_off_j: float = 0.0
    requests: int = 0
    seen_s: float = math.nan
    gap_s: float = math.nan
    actual_j: float = 0.0
    expected_j: float = 0.0
    in_flight_j: float = 0.0
    phase: float = 0.0

    def numbers(self) -> dict[str, float]:
        """For the journal."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Charge:
    """What one request was charged when it was routed."""

    expected_j: float
    bound_j: float


class Pacer:
    """One long-run budget. Used as: `arrive`, choose at `price_per_j` within `headroom_j`, `charge`, later `settle`.

    Args:
        allowance: The budget.
        state: An account to take up again; None opens one.
        horizon_requests: Requests over which a surplus or a debt is worked off.
        window: Queries that the curve is made of.

    Cost: `all calls of one request together 6 to 8 µs for 20 routes, the curve's rebuilds included (`decision_us` of
    tests/bench/bench_pacing.py).
    """

    def __init__(
        self,
        allowance: Allowance,
        *,
        state: PacerState | None = None,
        horizon_requests: float = HORIZON_REQUESTS,
        window: int = 512,
    ) -> None:
        self.state = PacerState() if state is None else state
        self._horizon = horizon_requests
        self._curve = SpendCurve(window)
        self.status = PacingStatus.WAITING
        self.change(allowance)

    @property
    def price_per_j(self) -> float:
        """Quality that a joule must buy now."""
        return self.state.price_per_j

    @property
    def headroom_j(self) -> float:
        """What a reservation may come to; only the cheapest choice may exceed it."""
        return self.state.balance_j + self._burst_j - self.state.in_flight_j

    @property
    def burn_ratio(self) -> float:
        """Spent over accrued since the account was opened; NaN before anything accrued."""
        return self.state.spent_j / self.state.accrued_j if self.state.accrued_j > 0.0 else math.nan

    @property
    def cheapest_j(self) -> float:
        """Mean joules of the cheapest choices of recent queries, as they really turn out; NaN while unknown."""
        return self._curve.base_j * self._bias() if self._curve.ready else math.nan

    @property
    def decline_j(self) -> float:
        """Joules of turning a request away, on the scale of the other options: what the request would have brought."""
        return self.allowance.per_request_j or 0.0

    def change(self, allowance: Allowance) -> None:
        """Another budget from now on; what is saved or owed stays, as far as the new burst allowance goes."""
        self.allowance = allowance
        self._burst_j = allowance.burst_j
        self.state.balance_j = min(max(self.state.balance_j, -self._burst_j), self._burst_j)

    def arrive(self, now_s: float) -> float:
        """A request comes: accrue what it brings and set the price; returns the price."""
        state = self.state
        per_request_j = self.allowance.per_request_j
        if per_request_j is None:
            per_request_j = self._elapse(now_s)
            horizon = self.allowance.burst_s / state.gap_s if state.gap_s > 0.0 else self._horizon
        else:
            self._accrue(per_request_j)
            horizon = self._horizon
        if self._curve.ready:
            self._set_price(per_request_j, max(1.0, horizon))
        return state.price_per_j

    def _elapse(self, now_s: float) -> float:
        """Accrue watts over the time since the last request; returns the joules that a typical gap brings."""
        state, power_w = self.state, self.allowance.power_w or 0.0
        gap_s = max(0.0, now_s - state.seen_s) if state.seen_s == state.seen_s else 0.0
        state.seen_s = now_s
        self._accrue(power_w * gap_s)
        if state.gap_s != state.gap_s:
            state.gap_s = gap_s if gap_s > 0.0 else math.nan
        else:
            state.gap_s += SMOOTHING * (min(gap_s, IDLE_GAPS * state.gap_s) - state.gap_s)
        return power_w * state.gap_s if state.gap_s == state.gap_s else power_w * self.allowance.burst_s

    def _accrue(self, joules: float) -> None:
        state = self.state
        state.accrued_j += joules
        state.balance_j += joules
        if state.balance_j > self._burst_j:
            state.lost_j += state.balance_j - self._burst_j
            state.balance_j = self._burst_j

    def _bias(self) -> float:
        """Actual over expected joules, lately."""
        state = self.state
        return state.actual_j / state.expected_j if state.expected_j > 0.0 and state.actual_j > 0.0 else 1.0

    def _set_price(self, per_request_j: float, horizon: float) -> None:
        bias, state = self._bias(), self.state
        room = max(_LEAST_ROOM, 1.0 - (state.balance_j / self._burst_j) ** 2)
        reading = self._curve.read((per_request_j + state.balance_j / (horizon * room)) / bias)
        state.phase += reading.lower_share
        lower = state.phase >= 1.0
        state.phase -= lower
        state.price_per_j = reading.lower_per_j if lower else reading.price_per_j
        if reading.base_j * bias > per_request_j:
            self.status = PacingStatus.INFEASIBLE
        else:
            self.status = PacingStatus.HELD if reading.price_per_j > 0.0 else PacingStatus.SLACK

    def charge(self, expected_j: float, bound_j: float) -> Charge:
        """A route was chosen: pay what is expected, reserve the rest of its bound."""
        charge = Charge(expected_j, max(bound_j, expected_j) if math.isfinite(bound_j) else expected_j)
        self.state.requests += 1
        self.state.in_flight_j += charge.bound_j - charge.expected_j
        self._pay(expected_j)
        return charge

    def decline(self) -> None:
        """The request that came last is turned away: it brings nothing to a budget of joules per request."""
        if self.allowance.per_request_j is not None:
            self.state.accrued_j -= self.allowance.per_request_j
            self.state.balance_j -= self.allowance.per_request_j

    def learn(self, quality_r: Floats, energy_r: Floats, floor_per_j: float = 0.0) -> None:
        """What a query could choose from; minus infinity as quality where it may not. See `curve.climb`."""
        self._curve.add(quality_r, energy_r, floor_per_j)

    def settle(self, charge: Charge, actual_j: float) -> None:
        """The real joules of a charge are known; NaN lets the expectation stand."""
        state = self.state
        state.in_flight_j = max(0.0, state.in_flight_j - (charge.bound_j - charge.expected_j))
        if actual_j != actual_j:
            return
        self._pay(actual_j - charge.expected_j)
        if not state.expected_j:
            # The ratio starts at 1.
            state.actual_j = state.expected_j = charge.expected_j
        state.actual_j += BIAS_SMOOTHING * (actual_j - state.actual_j)
        state.expected_j += BIAS_SMOOTHING * (charge.expected_j - state.expected_j)

    def correct(self, joules: float) -> None:
        """A charge that was settled took so many joules more (negative: fewer) than was said then."""
        self._pay(joules)

    def _pay(self, joules: float) -> None:
        state = self.state
        state.spent_j += joules
        state.balance_j -= joules
        floor_j = -FORGIVEN_BURSTS * self._burst_j
        if state.balance_j < floor_j:
            state.written_off_j += floor_j - state.balance_j
            state.balance_j = floor_j
