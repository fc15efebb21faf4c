"""Fits that make routes functions of the experts' heads.

Shape letters: q queries, e experts, r routes, s stages.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from optimizer.deciding.model import Links
from optimizer.evidence.replay import ReplayTable
from optimizer.fitting.logistic import fit_logistic
from optimizer.routes.route import Route

Floats = NDArray[np.float64]

_L2 = 1.0


def fit_links(
    routes: Sequence[Route],
    experts: Sequence[str],
    *,
    table: ReplayTable,
    log_odds_qe: Floats,
    every_head: bool = False,
) -> Links:
    """Fit quality and reach of every route on the heads' log odds.

    Args:
        routes: The table's routes.
        experts: Order of the e axis.
        table: What each route did to each query.
        log_odds_qe: What each head said about each query while it had not seen it.
        every_head: Whether a route of several experts is read off all heads, not those of its first and last expert
            alone: what others are good at tells what is asked.
    """
    shape = table.reached_qrs.shape[1:]
    links = Links(
        quality_re=np.zeros((len(routes), len(experts))),
        quality_bias_r=np.zeros(len(routes)),
        reach_rse=np.zeros((*shape, len(experts))),
        reach_bias_rs=np.full(shape, -np.inf),
    )
    links.reach_bias_rs[:, 0] = np.inf
    for r, route in enumerate(routes):
        first, last = experts.index(route.experts[0]), experts.index(route.experts[-1])
        if first == last:
            links.quality_re[r, first] = 1.0
            continue
        ends, start = ([*range(len(experts))],) * 2 if every_head else ([first, last], [first])
        weights_e, links.quality_bias_r[r] = _fit(log_odds_qe[:, ends], table.correct_qr[:, r])
        links.quality_re[r, ends] = weights_e
        for s in range(1, len(route.stages)):
            weights_e, links.reach_bias_rs[r, s] = _fit(log_odds_qe[:, start], table.reached_qrs[:, r, s])
            links.reach_rse[r, s, start] = weights_e
    return links


def _fit(x_qe: Floats, outcome_q: NDArray[np.floating] | NDArray[np.bool_]) -> tuple[Floats, float]:
    """A logistic fit on smoothed targets, so that what never happened is improbable and not impossible."""
    happened_q = np.asarray(outcome_q, dtype=np.float64)
    often, seldom = happened_q.sum(), len(happened_q) - happened_q.sum()
    target_q = np.where(happened_q > 0.5, (often + 1.0) / (often + 2.0), 1.0 / (seldom + 2.0))
    return fit_logistic(x_qe, target_q, l2=_L2)
