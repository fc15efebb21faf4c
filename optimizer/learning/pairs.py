"""Cascades of two experts that are worth having for some queries, however little they are worth for all.

A specialist with a generalist behind it loses on everything that the specialist does not know; a gate that reads the
query asks them only where it knows that field. So a pair is worth a place in the table where a gate that may choose it,
query by query and at some price of a joule, gets more than the same gate without it, by a standard error. The pairs are
taken one after the other, so that none is taken for what another one does already. Where both have answered, the answer
stands that its expert is surer of.

Shape letters: q queries, e experts, k candidates, p prices.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.evidence.replay import ReplayTable
from optimizer.evidence.standard import Trial
from optimizer.fitting.judging import folds_of
from optimizer.fitting.logistic import sigmoid
from optimizer.learning.families import stage_answers
from optimizer.routes.route import Fusion, Route

Floats = NDArray[np.float64]

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_MOST_EXPERTS = 6
_PRICES = 8
# Standard errors by which a pair must gain.
_HURDLE = 1.0
_FOLDS = 5
# More queries than this are not looked at to choose by.
_SAMPLE = 4_000
_RIDGE = 1e-3


@dataclass(frozen=True)
class _Offers:
    """What routes are expected to do for each query by fits that had not seen it, and what they did."""

    expected_right_qk: Floats
    expected_j_qk: Floats
    right_qk: Floats
    energy_qk: Floats

    def priced(self, prices_p: Floats, rows_q: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Expected and real worth of each route at each price for some of the queries, (k, p, q)."""

        def worth_kpq(right_qk: Floats, energy_qk: Floats) -> Floats:
            return np.asarray(right_qk[rows_q].T[:, None] - prices_p[:, None] * energy_qk[rows_q].T[:, None])

        expected_kpq = worth_kpq(self.expected_right_qk, self.expected_j_qk)
        return expected_kpq, worth_kpq(self.right_qk, self.energy_qk)


def pairs(trial: Trial, log_odds_qe: Floats, *, beside: Sequence[Route], most: int, seed: int) -> list[Route]:
    """The pairs that a gate gains from, the one that it gains most from first.

    Args:
        trial: What routes are measured on.
        log_odds_qe: What each head said about each query while it had not seen it.
        beside: Routes that the gate has already: every single expert first.
        most: How many pairs at most.
        seed: Of the folds.
    """
    energy_e = trial.costs.energy_e
    dear_j, cheap_j = max(float(energy_e.max()), 1e-12), max(float(energy_e.min()), 1e-12)
    prices_p = np.array([0.0, *np.geomspace(1e-2 / dear_j, 1.0 / cheap_j, _PRICES - 1)])
    found = [_pair(trial, one, other) for one, other in itertools.combinations(_used(trial, log_odds_qe, prices_p), 2)]
    if not found or most <= 0:
        return []
    routes = [route for family, _, _ in found for route in family]
    right_qk = np.hstack([right_qt for _, right_qt, _ in found])
    energy_qk = np.hstack([energy_qt for _, _, energy_qt in found])
    standing = ReplayTable.of(beside, trial.evidence, trial.costs)
    known_qf = np.hstack([sigmoid(log_odds_qe), log_odds_qe, np.ones((len(log_odds_qe), 1))])
    before = _offers(known_qf, standing.correct_qr, standing.energy_qr, seed=seed)
    offers = _offers(known_qf, right_qk, energy_qk, seed=seed)
    rows_q = np.random.default_rng(seed).permutation(len(known_qf))[:_SAMPLE]
    return [routes[k] for k in _taken(before.priced(prices_p, rows_q), offers.priced(prices_p, rows_q), most=most)]


def _used(trial: Trial, log_odds_qe: Floats, prices_p: Floats) -> list[int]:
    """The experts that a gate of single experts uses most, over all prices, by rising joules."""
    score_pqe = sigmoid(log_odds_qe) - prices_p[:, None, None] * trial.costs.energy_e
    share_e = np.bincount(score_pqe.argmax(axis=2).ravel(), minlength=log_odds_qe.shape[1])
    used = np.argsort(-share_e, kind="stable")[:_MOST_EXPERTS].tolist()
    return sorted(used, key=lambda e: float(trial.costs.energy_e[e]))


def _pair(trial: Trial, one: int, other: int) -> tuple[list[Route], Floats, Floats]:
    """A cheap expert, a dearer one behind it, at every threshold: routes, right answers and joules, (q, t)."""
    stages = tuple((trial.evidence.experts[e],) for e in (one, other))
    routes = [Route(stages, continue_below=(below,), fusion=Fusion.SUREST) for below in THRESHOLDS]
    right_sq, confidence_sq = stage_answers(routes[0], trial.evidence)
    goes_on_qt = confidence_sq[0][:, None] < np.array(THRESHOLDS)
    right_qt = np.where(goes_on_qt, right_sq[1][:, None], right_sq[0][:, None])
    return routes, right_qt, trial.costs.energy_e[one] + goes_on_qt * trial.costs.energy_e[other]


def _offers(known_qf: Floats, right_qk: Floats, energy_qk: Floats, *, seed: int) -> _Offers:
    """Expectations linear in what is known of each query, fitted on the other folds."""
    outcome_qv = np.hstack([right_qk, energy_qk])
    expected_qv = np.empty(outcome_qv.shape)
    fold_q = folds_of(len(known_qf), folds=min(_FOLDS, len(known_qf)), seed=seed)
    ridge_ff = _RIDGE * np.eye(known_qf.shape[1])
    for fold in range(int(fold_q.max()) + 1):
        seen_qf, unseen = known_qf[fold_q != fold], fold_q == fold
        weights_fv = np.linalg.solve(seen_qf.T @ seen_qf + ridge_ff, seen_qf.T @ outcome_qv[fold_q != fold])
        expected_qv[unseen] = known_qf[unseen] @ weights_fv
    expected_right_qk, expected_j_qk = np.hsplit(expected_qv, 2)
    return _Offers(expected_right_qk, expected_j_qk, right_qk, energy_qk)


def _taken(before: tuple[Floats, Floats], offered: tuple[Floats, Floats], *, most: int) -> list[int]:
    """Candidates one after the other, each the one that gains most beside those before."""
    expected_kpq, worth_kpq = offered
    score_pq = before[0].max(axis=0)
    had_pq = np.take_along_axis(before[1], before[0].argmax(axis=0)[None], axis=0)[0]
    left = [*range(len(expected_kpq))]
    taken: list[int] = []
    while left and len(taken) < most:
        gains = [_gain(expected_kpq[k] > score_pq, worth_kpq[k] - had_pq) for k in left]
        best = int(np.argmax(gains))
        if gains[best] <= 0.0:
            break
        k = left[best]
        taken.append(k)
        had_pq = np.where(expected_kpq[k] > score_pq, worth_kpq[k], had_pq)
        score_pq = np.maximum(score_pq, expected_kpq[k])
        # What gains nothing beside fewer others gains nothing beside more of them.
        left = [other for other, gain in zip(left, gains, strict=True) if gain > 0.0 and other != k]
    return taken


def _gain(better_pq: NDArray[np.bool_], more_pq: Floats) -> float:
    """What a choice gains at the price where it gains most, less the hurdle."""
    gain_pq = np.where(better_pq, more_pq, 0.0)
    error_p = gain_pq.std(axis=1) / np.sqrt(gain_pq.shape[1])
    return float((gain_pq.mean(axis=1) - _HURDLE * error_p).max())
