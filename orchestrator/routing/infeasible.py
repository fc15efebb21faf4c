"""Why a decision found no route, as the error that the caller gets: pure, no clock."""

from __future__ import annotations

from orchestrator.admission import overloaded
from orchestrator.errors import BudgetInfeasible, EdgewiseError, RequestError, Unavailable
from orchestrator.routing.route import Decision
from orchestrator.types import Limits

RETRY_AFTER_S = 1.0


def why_infeasible(decision: Decision, limits: Limits) -> EdgewiseError:
    """Why nothing fits: too small a budget, or too much work ahead of this request."""
    fallback = decision.choice.fallback
    if decision.allowed_r is not None and not decision.allowed_r.any():
        return RequestError(
            "FIELD_OUT_OF_RANGE",
            "No route of this task combines answers that way with so few experts; ask for fusion auto or none.",
            field="fusion",
        )
    if fallback is None:
        return Unavailable("NO_NODE", "No connected node can serve this request now.", retry_after_s=RETRY_AFTER_S)
    offer = decision.offer
    affordable_r = offer.available_r & (offer.energy_bound_r <= limits.max_energy_j)
    if (affordable_r & (decision.table.unloaded_ms() <= limits.max_latency_ms)).any():
        excess_ms = float(offer.latency_bound_r[affordable_r].min()) - limits.max_latency_ms
        return overloaded(excess_ms / 1000.0)
    return BudgetInfeasible(min_energy_j=fallback.min_energy_j, min_latency_ms=fallback.min_latency_ms)
