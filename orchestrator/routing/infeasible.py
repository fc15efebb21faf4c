"""Why a decision found no route, as the error that the caller gets: pure, no clock."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.admission import MIN_RETRY_AFTER_S, overloaded
from orchestrator.errors import BudgetInfeasible, EdgewiseError, RequestError, Unavailable
from orchestrator.residency import left_ms
from orchestrator.routing.route import Decision
from orchestrator.types import FusionChoice, Limits, OnInfeasible

RETRY_AFTER_S = 1.0
_INSTEAD = {
    FusionChoice.TOKEN: "token needs two of one vocabulary that take turns: ask for bytes, which joins others.",
    FusionChoice.BYTES: "bytes needs two whose nodes say that they can: ask for vote, or for auto.",
}


def why_infeasible(decision: Decision, limits: Limits) -> EdgewiseError:
    """Why nothing fits: too small a budget, or too much work ahead of this request."""
    offer = decision.offer
    if decision.allowed_r is not None and not decision.allowed_r.any():
        instead = _INSTEAD.get(decision.fusion, "ask for fusion auto or none.")
        text = f"No route of this task combines answers that way with so few experts; {instead}"
        return RequestError("FIELD_OUT_OF_RANGE", text, field="fusion")
    crowded_r = _crowded(decision)
    affordable_r = (offer.available_r | crowded_r) & (offer.energy_bound_r <= limits.max_energy_j)
    timely_r = affordable_r & (decision.table.unloaded_ms() <= limits.max_latency_ms)
    if timely_r.any():
        held_back = _by_loads(decision, affordable_r, limits.max_latency_ms)
        if held_back is not None:
            return held_back
        # When a full queue takes more nobody knows.
        closed_ms_r = np.nan_to_num(decision.table.closed_ms(), posinf=0.0)
        late_ms_r = np.maximum(offer.latency_bound_r - limits.max_latency_ms, closed_ms_r)
        return overloaded(float(late_ms_r[timely_r].min()) / 1000.0)
    fallback = decision.choice.fallback
    if fallback is None and crowded_r.any():
        if limits.on_infeasible is not OnInfeasible.ERROR:
            return overloaded(RETRY_AFTER_S)
        # What a node whose queue is full would do for a larger budget.
        fallback = replace(decision.choice, offer=offer.where(crowded_r)).fallback
    if fallback is None:
        return Unavailable("NO_NODE", "No connected node can serve this request now.", retry_after_s=RETRY_AFTER_S)
    return BudgetInfeasible(min_energy_j=fallback.min_energy_j, min_latency_ms=fallback.min_latency_ms)


def kept_out_by(decision: Decision, limits: Limits) -> NDArray[np.intp]:
    """Arms whose queues kept a request from being answered that would have been, were they short.

    Who has no time to wait for even one piece of work would not have been.
    """
    offer, table = decision.offer, decision.table
    in_time_r = table.unloaded_ms() + table.unloaded_ms(typical=True) <= limits.max_latency_ms
    if decision.load_ms_r is not None:
        # There it is the load that takes too long.
        in_time_r &= decision.load_ms_r == 0.0
    return table.arms_of(
        (offer.available_r | _crowded(decision)) & (offer.energy_bound_r <= limits.max_energy_j) & in_time_r
    )


def _by_loads(decision: Decision, affordable_r: NDArray[np.bool_], max_latency_ms: float) -> EdgewiseError | None:
    """Where only experts that are not in memory keep routes from fitting: when to come back if one is being loaded,
    else what a budget must allow for a load; nobody loads it for a request that is refused."""
    offer, load_ms_r = decision.offer, decision.load_ms_r
    if load_ms_r is None:
        return None
    fits_r = offer.latency_bound_r - load_ms_r <= max_latency_ms
    held = np.flatnonzero(affordable_r & offer.available_r & fits_r & (load_ms_r > 0.0))
    if not held.size:
        return None
    away = [arm for r in held for arm in decision.table.away(int(r))]
    loading = [(left_ms(arm.residency), arm) for arm in away if arm.residency and arm.residency.state == "loading"]
    if not loading:
        return BudgetInfeasible(
            min_energy_j=float(offer.energy_bound_r[held].min()),
            min_latency_ms=float(offer.latency_bound_r[held].min()),
        )
    soonest_ms, arm = min(loading, key=lambda pair: pair[0])
    progress = arm.residency.progress_fraction if arm.residency else None
    told = {"state": "loading", "expert": arm.expert, "node": arm.node, "etaS": f"{soonest_ms / 1e3:.3f}"}
    return Unavailable(
        "EXPERT_LOADING",
        "The expert is being loaded and would answer too late; try again when it is in memory, or allow more time.",
        retry_after_s=max(soonest_ms / 1e3, MIN_RETRY_AFTER_S),
        metadata=told if progress is None else {**told, "progressFraction": f"{progress:.3f}"},
    )


def _crowded(decision: Decision) -> NDArray[np.bool_]:
    """Routes that the client's wish lets run, and that only a full queue keeps from running."""
    crowded_r = decision.table.crowded()
    return crowded_r if decision.allowed_r is None else crowded_r & decision.allowed_r
