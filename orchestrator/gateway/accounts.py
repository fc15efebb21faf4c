"""What is known of a request when it ends, and what is told of it: the reply, the record, the log line."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from optimizer.frozen import frozen
from optimizer.online.pacing import Charge
from optimizer.routes.fusion import Fused
from orchestrator.errors import EdgewiseError
from orchestrator.execution.course import TextEnd
from orchestrator.execution.run import Progress, fusion_of
from orchestrator.journal import Entry
from orchestrator.ledger.spenders import NOBODY, Reservation, Spender
from orchestrator.personal.types import Owner
from orchestrator.routing.plan import NO_CERTIFICATE, Plan
from orchestrator.routing.route import Decision
from orchestrator.store.records import Claim
from orchestrator.types import (
    NO_ACCOUNT,
    Account,
    Energy,
    FusionChoice,
    Limits,
    Provenance,
    Query,
    Reply,
    RoutingRecord,
    TextQuery,
    Timings,
)


@frozen
class Payer:
    """Who pays for a request, and its id where the client chose one."""

    spender: Spender = NOBODY
    claim: Claim | None = None


ANYBODY = Payer()


@dataclass(slots=True)
class Ticket:
    """One request on its way: what is known of it when it ends, however it ends."""

    request_id: str
    task: str
    started_s: float
    route_s: float = 0.0
    wait_s: float = 0.0
    limits: Limits | None = None
    decision: Decision | None = None
    plan: Plan | None = None
    progress: Progress | None = None
    charge: Charge | None = None
    payer: Payer = ANYBODY
    reservation: Reservation | None = None
    tokens: int = 0
    owner: Owner | None = None
    overlay: str = ""
    first_token_ms: float | None = None
    token_ms: float | None = None
    on_pace: bool = True

    def spoke(self, query: TextQuery, end: TextEnd) -> None:
        """A text that was sent in pieces has ended: how fast it went on, and whether it was as quick as was asked."""
        if self.first_token_ms is None:
            return
        if end.completion_tokens > 1:
            spent_ms = (time.monotonic() - self.started_s) * 1000.0 - self.first_token_ms
            self.token_ms = max(0.0, spent_ms) / (end.completion_tokens - 1)
        late = query.max_ttft_ms is not None and self.first_token_ms > query.max_ttft_ms
        slow = query.max_tpot_ms is not None and (self.token_ms or 0.0) > query.max_tpot_ms
        self.on_pace = not (late or slow)


@frozen
class TextReply:
    """The end of a text query; `profile` is the one that it was routed by."""

    request_id: str
    end: TextEnd
    energy: Energy
    routing: RoutingRecord
    timings: Timings
    account: Account = NO_ACCOUNT
    profile: str = ""


def make_reply(
    query: Query, fused: Fused, entry: Entry, *, needs_feedback: bool = False, left_j: float = math.inf
) -> Reply:
    """The reply to a query that has ended; `left_j` as of `Account`."""
    output, account = query.task.output, entry.account
    if left_j < math.inf:
        account = account.after(left_j)
    return Reply(
        request_id=query.request_id,
        outputs={output.name: fused.probabilities_c.astype(output.dtype).reshape(output.one)},
        label=query.task.labels[int(fused.label)],
        confidence=float(fused.confidence),
        energy=entry.energy,
        routing=entry.routing,
        timings=entry.timings,
        account=account,
        needs_feedback=needs_feedback,
    )


def routing_record(ticket: Ticket, energy: Energy, spent: Timings) -> RoutingRecord:
    """How a request was routed, as far as it came."""
    decision, progress, plan = ticket.decision, ticket.progress, ticket.plan
    plan_id = plan.plan_id if plan else ""
    # The plan certifies generic arms; a personal expert that stands in is outside of that.
    certificate = plan.certificate if plan and not ticket.overlay else NO_CERTIFICATE
    if decision is None or decision.promise is None or progress is None:
        return RoutingRecord((), FusionChoice.NONE, 0.0, 0.0, 0.0, 0.0, False, plan_id, certificate)
    promise = decision.promise
    return RoutingRecord(
        tuple(progress.attempts),
        fusion_of(progress),
        promise.energy_j,
        promise.latency_ms,
        promise.energy_bound_j,
        promise.latency_bound_ms,
        budget_met(progress.limits, energy, spent) and ticket.on_pace,
        plan_id,
        certificate,
        ticket.overlay,
        plan.gate if plan else "",
    )


def budget_met(limits: Limits, energy: Energy, spent: Timings) -> bool:
    """Whether joules and milliseconds are within the limits; unknown joules meet only an infinite limit."""
    known = energy.provenance is not Provenance.UNMEASURED
    within_j = energy.energy_j <= limits.max_energy_j if known else math.isinf(limits.max_energy_j)
    return within_j and spent.total_ms <= limits.max_latency_ms


def timings(ticket: Ticket, now_s: float) -> Timings:
    """Where the time of a request went, until this monotonic time."""
    progress = ticket.progress
    return Timings(
        (now_s - ticket.started_s) * 1000.0,
        ticket.route_s * 1000.0,
        ticket.wait_s * 1000.0,
        progress.infer_s * 1000.0 if progress else 0.0,
        progress.fuse_s * 1000.0 if progress else 0.0,
        ticket.first_token_ms,
        ticket.token_ms,
    )


def left_ms(limits: Limits, ticket: Ticket) -> float:
    """Milliseconds that are left of a request's latency budget."""
    return limits.max_latency_ms - (time.monotonic() - ticket.started_s) * 1000.0


def outcome_of(error: BaseException, ticket: Ticket) -> str:
    """The journal's word for what ended a request; errors for the caller are told which request it was."""
    if isinstance(error, EdgewiseError):
        error.metadata.setdefault("requestId", ticket.request_id)
        return error.reason
    return "INTERNAL" if isinstance(error, Exception) else "CANCELLED"


def arms_of(routing: RoutingRecord) -> str:
    """The arms that were tried, joined by commas."""
    attempts = routing.attempts
    return attempts[0].arm if len(attempts) == 1 else ",".join([attempt.arm for attempt in attempts])


# What the log line of a request holds, in the order of `log_line`.
LINE = (
    "request_id",
    "task",
    "outcome",
    "arms",
    "fusion",
    "energy_j",
    "energy_source",
    "predicted_j",
    "total_ms",
    "route_ms",
    "infer_ms",
    "predicted_ms",
    "budget_met",
    "plan",
)


def log_line(entry: Entry) -> tuple[object, ...]:
    """What is logged of a request, see `LINE`."""
    routing, spent, energy = entry.routing, entry.timings, entry.energy
    return (
        entry.request_id,
        entry.task,
        entry.outcome,
        arms_of(routing),
        routing.fusion.word,
        energy.energy_j if math.isfinite(energy.energy_j) else None,
        energy.provenance.word,
        routing.predicted_energy_j,
        round(spent.total_ms, 3),
        round(spent.route_ms, 3),
        round(spent.infer_ms, 3),
        round(routing.predicted_ms, 3),
        routing.budget_met,
        routing.plan_id,
    )
