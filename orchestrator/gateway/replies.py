"""Replies and explanations to messages."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator

import numpy as np

from edgewise.v1 import common_pb2, gateway_pb2
from optimizer.deciding.choose import Binding
from orchestrator.execution.course import TextEnd
from orchestrator.gateway.accounts import TextReply
from orchestrator.journal import Entry
from orchestrator.types import Account, AttemptRecord, FusionChoice, Reply, RoutingRecord, Timings
from orchestrator.wire import (
    FINISH_REASON_NUMBERS,
    FUSION_NUMBERS,
    PROVENANCE_NUMBERS,
    encode_certificate,
    encode_energy,
    encode_pacing,
    encode_tensor,
)


def encode_reply(reply: Reply) -> gateway_pb2.InferResponse:
    """The message for an answer."""
    return gateway_pb2.InferResponse(
        request_id=reply.request_id,
        outputs=[encode_tensor(name, array) for name, array in reply.outputs.items()],
        label=reply.label,
        confidence=reply.confidence,
        energy=encode_energy(reply.energy),
        routing=encode_routing(reply.routing),
        timing=encode_timings(reply.timings),
        needs_feedback=reply.needs_feedback,
    )


def encode_text_reply(reply: TextReply) -> gateway_pb2.GenerateDone:
    """The message that ends a generation."""
    end: TextEnd = reply.end
    return gateway_pb2.GenerateDone(
        request_id=reply.request_id,
        finish_reason=FINISH_REASON_NUMBERS.get(end.finish_reason, common_pb2.FINISH_REASON_UNSPECIFIED),
        usage=common_pb2.Usage(
            prompt_tokens=end.prompt_tokens,
            completion_tokens=end.completion_tokens,
            cached_tokens=end.cached_tokens,
        ),
        energy=encode_energy(reply.energy),
        routing=encode_routing(reply.routing),
        timing=encode_timings(reply.timings),
        logprobs_json=end.logprobs_json,
    )


def pack_events(events: Iterable[gateway_pb2.GenerateEvent]) -> bytes:
    """The events of a generation as one text that is kept: each with its length in four bytes before it."""
    parts = [event.SerializeToString() for event in events]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def unpack_events(data: bytes) -> Iterator[gateway_pb2.GenerateEvent]:
    """The events again."""
    start = 0
    while start < len(data):
        end = start + 4 + int.from_bytes(data[start : start + 4], "big")
        yield gateway_pb2.GenerateEvent.FromString(data[start + 4 : end])
        start = end


def encode_account(account: Account) -> gateway_pb2.Account:
    """The message for what a request was allowed and charged."""
    return gateway_pb2.Account(
        tenant=account.tenant,
        key_id=account.key_id,
        budgets=account.budgets,
        reserved_j=account.reserved_j,
        charged_j=account.charged_j,
    )


def encode_routing(routing: RoutingRecord) -> gateway_pb2.Routing:
    """The message for what ran."""
    return gateway_pb2.Routing(
        attempts=[_attempt(attempt) for attempt in routing.attempts],
        fusion=_fusion(routing.fusion),
        predicted_energy_j=routing.predicted_energy_j,
        predicted_ms=routing.predicted_ms,
        bound_energy_j=routing.bound_energy_j,
        bound_ms=routing.bound_ms,
        budget_met=routing.budget_met,
        plan_id=routing.plan_id,
        certificate=encode_certificate(routing.certificate),
        overlay=routing.overlay,
        gate_sha256=routing.gate_sha256,
    )


def _fusion(fusion: FusionChoice) -> common_pb2.FusionMode.ValueType:
    return FUSION_NUMBERS[fusion]


def _attempt(attempt: AttemptRecord) -> gateway_pb2.Attempt:
    energy_j = attempt.energy.energy_j
    return gateway_pb2.Attempt(
        arm=attempt.arm,
        stage=attempt.stage,
        predicted_energy_j=attempt.predicted_energy_j,
        energy_j=0.0 if math.isnan(energy_j) else energy_j,
        energy_provenance=PROVENANCE_NUMBERS[attempt.energy.provenance],
        predicted_ms=attempt.predicted_ms,
        ms=attempt.ms,
        outcome=attempt.outcome,
        reason=attempt.reason,
    )


def encode_timings(timings: Timings) -> gateway_pb2.Timing:
    """The message for where the time went."""
    return gateway_pb2.Timing(
        total_ms=timings.total_ms,
        route_ms=timings.route_ms,
        wait_ms=timings.wait_ms,
        infer_ms=timings.infer_ms,
        fuse_ms=timings.fuse_ms,
    )


# ---- why


def encode_explanation(entry: Entry) -> gateway_pb2.ExplainResponse:
    """The message that tells why; an infinite energy limit is told as infinity."""
    decision = entry.decision
    response = gateway_pb2.ExplainResponse(
        request_id=entry.request_id,
        task=entry.task,
        outcome=entry.outcome,
        routing=encode_routing(entry.routing),
        energy=encode_energy(entry.energy),
        timing=encode_timings(entry.timings),
        age_s=time.monotonic() - entry.finished_s,
        account=encode_account(entry.account),
    )
    if entry.limits is not None:
        response.max_energy_j = entry.limits.max_energy_j
        response.max_latency_ms = entry.limits.max_latency_ms
        response.profile = entry.limits.profile
    if decision is None:
        return response
    names = [bound.name for bound in decision.table.bound]
    choice = decision.choice
    response.price_per_j = decision.price.per_j
    pacing = encode_pacing(None if decision.pace is None else decision.pace.record)
    if pacing is not None:
        response.pacing.CopyFrom(pacing)
    response.binding_constraint = choice.binding.value
    response.chosen = "" if decision.index is None else names[decision.index]
    response.runner_up = "" if choice.runner_up is None else names[choice.runner_up]
    response.candidates.extend(_candidates(entry, names))
    return response


def _candidates(entry: Entry, names: list[str]) -> list[gateway_pb2.Candidate]:
    decision = entry.decision
    if decision is None:
        return []
    offer, choice = decision.offer, decision.choice
    # Best first; what was chosen leads its equals.
    order = np.lexsort((-choice.score_r, ~choice.feasible_r))
    return [
        gateway_pb2.Candidate(
            route=names[r],
            quality=offer.quality_r[r],
            predicted_energy_j=offer.energy_r[r],
            bound_energy_j=offer.energy_bound_r[r],
            predicted_ms=offer.latency_r[r],
            bound_ms=offer.latency_bound_r[r],
            feasible=bool(choice.feasible_r[r]),
            excluded_by=_excluded_by(entry, int(r)),
            score=choice.score_r[r],
            load_ms=0.0 if decision.load_ms_r is None else decision.load_ms_r[r],
        )
        for r in order
    ]


def _excluded_by(entry: Entry, r: int) -> str:
    decision, limits = entry.decision, entry.limits
    if decision is None or limits is None or decision.choice.feasible_r[r]:
        return ""
    if decision.allowed_r is not None and not decision.allowed_r[r]:
        return "request"
    if not decision.offer.available_r[r]:
        return Binding.AVAILABILITY.value
    if decision.offer.energy_bound_r[r] > limits.max_energy_j:
        return Binding.ENERGY.value
    return Binding.LATENCY.value
