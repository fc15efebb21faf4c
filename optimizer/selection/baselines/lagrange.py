"""Mode ``routed``: a Lagrangian bound on what a box can still reach, whatever the utility.

The value of S is max Σ_q,P worth_qP · y_qP over policies y with Σ energy_qP · y_qP ≤ E, Σ_P y_qP ≤ 1 and, for each free
arm, Σ over panels P with n of y_qP ≤ z_n. The energy limit is priced with λ and the last rows with μ_qn:

    λE + Σ_q (max over P of worth − λ · energy − Σ over free n in P of μ_qn)⁺ + knapsack of the gains Σ_q μ_qn

bounds the box for every λ, μ ≥ 0. With μ = 0 it is the top corner; a few subgradient steps from the parent's prices
make it the linear relaxation, nearly.

Shape letters: q queries, o options, n eligible arms, f free arms, k set costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optimizer.selection.baselines.ground import Ground
from optimizer.selection.baselines.knapsack import Filling, fill
from optimizer.selection.baselines.panels import Panels
from optimizer.selection.baselines.relaxations import Box, View, per_price
from optimizer.selection.pricing import Policy
from optimizer.selection.utility import Floats

# On random problems of up to 30 arms half as many steps made some trees five times larger; more only took longer.
_ROOT_STEPS = 40
_STEPS = 10
_PATIENCE = 3


@dataclass(frozen=True)
class _Prices:
    """One point of the dual: `spend` is λE, which has the unit of the objective."""

    spend: float
    share_qn: Floats
    price_k: Floats


@dataclass(frozen=True)
class _Tangent:
    """The dual at a point, and how it changes."""

    bound: float
    filling: Filling
    gain_f: Floats
    rise_qf: Floats
    rise_spend: float


class PricedPanels:
    """Bounds boxes of a routed problem."""

    def __init__(self, ground: Ground, panels: Panels) -> None:
        self._ground, self._panels = ground, panels
        self.value = panels.value

    def look(self, box: Box, *, enough: float) -> View:
        policy = self._panels.policy(box.top_n)
        corner = min(box.bound, policy.value)
        flat_n, zero_n = np.full(len(box.top_n), corner), np.zeros(len(box.top_n))
        if corner <= enough:
            return View(corner, flat_n, flat_n, box.inside_n, zero_n)
        best, prices = self._descend(box, policy, enough)
        rank_n = zero_n.copy()
        rank_n[box.free_n] = per_price(best.gain_f, prices.price_k @ self._ground.cost_kn[:, box.free_n])
        reached_n = self._ground.extended(box.inside_n, box.top_n, rank_n)
        without_n, with_n = flat_n.copy(), flat_n.copy()
        without_n[box.free_n] = np.minimum(corner, best.bound - np.maximum(best.filling.surplus_n, 0.0))
        with_n[box.free_n] = np.minimum(corner, best.bound - np.maximum(-best.filling.surplus_n, 0.0))
        branch_n = zero_n.copy()
        branch_n[box.free_n] = best.gain_f
        return View(min(corner, best.bound), without_n, with_n, reached_n, branch_n, prices)

    def _descend(self, box: Box, policy: Policy, enough: float) -> tuple[_Tangent, _Prices]:
        """Subgradient steps with Polyak's length, halved when they stop helping."""
        relaxed = _Relaxed(self._ground, self._panels, box)
        prices = self._start(box, policy)
        best = here = relaxed.at(prices)
        best_prices, length, waited = prices, 1.0, 0
        for _ in range(_ROOT_STEPS if box.hint is None else _STEPS):
            if here.bound < best.bound:
                best, best_prices, waited = here, prices, 0
            waited += 1
            if waited > _PATIENCE:
                length, waited, here, prices = length / 2.0, 0, best, best_prices
            steepness = float((here.rise_qf**2).sum()) + here.rise_spend**2
            if best.bound <= enough or steepness <= 0.0:
                break
            prices = relaxed.moved(prices, here, length * (here.bound - enough) / steepness)
            here = relaxed.at(prices)
        return best, best_prices

    def _start(self, box: Box, policy: Policy) -> _Prices:
        if isinstance(box.hint, _Prices):
            return _Prices(box.hint.spend, np.where(box.free_n, box.hint.share_qn, 0.0), box.hint.price_k)
        share_qn = np.zeros((self._panels.queries, len(box.top_n)))
        return _Prices(policy.price_per_j * self._panels.limit_j, share_qn, np.zeros(len(self._ground.limit_k)))


class _Relaxed:
    """The dual of one box."""

    def __init__(self, ground: Ground, panels: Panels, box: Box) -> None:
        keep_o = panels.within_o(box.top_n)
        options = panels.options(keep_o)
        self._limit_j, self._rows = panels.limit_j, np.arange(panels.queries)
        self._worth_qo, self._energy_qo = options.worth_qo, options.energy_qo
        if self._limit_j <= 0.0:
            # No price is high enough: what costs anything cannot run.
            self._worth_qo = np.where(self._energy_qo > 0.0, -1.0, self._worth_qo)
            self._energy_qo, self._limit_j = np.zeros_like(self._energy_qo), 1.0
        self._free_n = box.free_n
        self._member_of = panels.member_on[keep_o][:, box.free_n].astype(np.float64)
        self._cost_kf = ground.cost_kn[:, box.free_n]
        self._room_k = ground.room_k(box.inside_n)

    def at(self, prices: _Prices) -> _Tangent:
        """The bound at a point, and its subgradient without what would leave the domain."""
        share_qf, price = prices.share_qn[:, self._free_n], prices.spend / self._limit_j
        surplus_qo = self._worth_qo - price * self._energy_qo - share_qf @ self._member_of.T
        choice_q = surplus_qo.argmax(axis=1)
        surplus_q = surplus_qo[self._rows, choice_q]
        runs_q = surplus_q > 0.0
        gain_f = share_qf.sum(axis=0)
        filling = fill(gain_f, self._cost_kf, self._room_k, prices.price_k)
        bound = prices.spend + float(surplus_q[runs_q].sum()) + filling.bound
        rise_qf = filling.share_n - self._member_of[choice_q] * runs_q[:, None]
        rise_qf[(share_qf <= 0.0) & (rise_qf > 0.0)] = 0.0
        rise_spend = 1.0 - float(self._energy_qo[self._rows, choice_q][runs_q].sum()) / self._limit_j
        rise_spend = 0.0 if prices.spend <= 0.0 and rise_spend > 0.0 else rise_spend
        return _Tangent(bound, filling, gain_f, rise_qf, rise_spend)

    def moved(self, prices: _Prices, here: _Tangent, length: float) -> _Prices:
        share_qn = prices.share_qn.copy()
        share_qn[:, self._free_n] = np.maximum(share_qn[:, self._free_n] - length * here.rise_qf, 0.0)
        spend = max(prices.spend - length * here.rise_spend, 0.0)
        return _Prices(spend, share_qn, here.filling.price_k)
