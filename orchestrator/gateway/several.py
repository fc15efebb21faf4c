"""One question as several queries, and their replies as one: what several answers and several samples share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from orchestrator.execution.run import total_energy
from orchestrator.gateway.accounts import TextReply
from orchestrator.types import BudgetRequest, Delta, TextQuery, Timings

# Room for a number behind the request's own id.
ID_CHARS = 60

Piece = Delta | TextReply


def drawn(query: TextQuery, n: int) -> list[TextQuery]:
    """The same question `n` times, drawn anew each time."""
    return [_one_of(query, n, number) for number in range(n)]


def _one_of(query: TextQuery, n: int, number: int) -> TextQuery:
    parameters, seed = query.parameters, query.parameters.seed
    if seed is not None:
        parameters = replace(parameters, seed=(seed + number) % 2**63)
    limit_j = query.budget.max_energy_j
    budget: BudgetRequest = query.budget if limit_j is None else replace(query.budget, max_energy_j=limit_j / n)
    request_id = query.request_id if number == 0 else f"{query.request_id[:ID_CHARS]}-{number}"
    return replace(query, request_id=request_id, parameters=parameters, budget=budget)


def together(replies: Sequence[TextReply]) -> TextReply:
    """What all answers cost, as if they were one: attempts and joules of all, the time of the slowest."""
    first = replies[0]
    if len(replies) == 1:
        return first
    attempts = tuple(attempt for reply in replies for attempt in reply.routing.attempts)
    routing = replace(
        first.routing,
        attempts=attempts,
        predicted_energy_j=math.fsum(reply.routing.predicted_energy_j for reply in replies),
        bound_energy_j=math.fsum(reply.routing.bound_energy_j for reply in replies),
        predicted_ms=max(reply.routing.predicted_ms for reply in replies),
        bound_ms=max(reply.routing.bound_ms for reply in replies),
        budget_met=all(reply.routing.budget_met for reply in replies),
    )
    end = replace(first.end, completion_tokens=sum(reply.end.completion_tokens for reply in replies))
    slowest: Timings = max((reply.timings for reply in replies), key=lambda timings: timings.total_ms)
    energy = total_energy(list(attempts))
    return replace(first, end=end, routing=routing, energy=energy, timings=slowest)
