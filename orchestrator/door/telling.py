"""Replies as OpenAI's clients read them, with what an answer cost and why it was routed as it was. Pure.

The first six keys of `energy` are Neuralwatt's, so that readers of theirs work.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import accumulate
from math import isfinite
from typing import Any

from orchestrator.door.head import one_line
from orchestrator.gateway.accounts import TextReply
from orchestrator.routing.alone import verdict
from orchestrator.types import AttemptRecord, Energy, Provenance, RoutingRecord, Timings

J_PER_KWH = 3.6e6
UNMEASURED = Provenance.UNMEASURED
SERVER_TIMING = "gate;dur=%.3f, queue;dur=%.3f, infer;dur=%.3f, fuse;dur=%.3f, total;dur=%.3f"

# Of an answer that was given before.
NO_ENERGY: Mapping[str, Any] = {
    "energy_joules": 0.0,
    "energy_kwh": 0.0,
    "avg_power_watts": 0.0,
    "duration_seconds": 0.0,
    "attribution_method": "cached",
    "attribution_ratio": None,
    "source": "measured",
    "idle_joules": 0.0,
    "uncertainty_joules": 0.0,
    "nodes": [],
}


def blocks(
    energy: Energy, routing: RoutingRecord, duration_ms: float, *, stopped_by: str | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What it cost, and what ran, what was predicted and how good the plan is proven to be: `energy` and `routing`.

    Unknown joules are null, never zero.
    """
    experts, nodes, attempts = _tried(routing.attempts)
    known, duration_s = energy.provenance is not UNMEASURED, duration_ms / 1e3
    certificate = routing.certificate
    predicted_j, predicted_ms = routing.predicted_energy_j, routing.predicted_ms
    bound_j, bound_ms = routing.bound_energy_j, routing.bound_ms
    return {
        "energy_joules": energy.energy_j if known else None,
        "energy_kwh": energy.energy_j / J_PER_KWH if known else None,
        "avg_power_watts": energy.energy_j / duration_s if known and duration_s > 0.0 else None,
        "duration_seconds": duration_s,
        "attribution_method": energy.share or energy.method,
        "attribution_ratio": None,
        "source": energy.provenance._value_,
        "idle_joules": energy.idle_j,
        "uncertainty_joules": energy.uncertainty_j if known else None,
        "nodes": nodes,
    }, {
        "experts": experts,
        "fusion": routing.fusion._value_,
        "predicted": {
            "joules": predicted_j if isfinite(predicted_j) else None,
            "ms": predicted_ms if isfinite(predicted_ms) else None,
        },
        "bound": {
            "joules": bound_j if isfinite(bound_j) else None,
            "ms": bound_ms if isfinite(bound_ms) else None,
        },
        "budget_met": routing.budget_met,
        "stopped_by": stopped_by,
        "plan": routing.plan_id,
        "certificate": {"status": certificate.status, "gap": certificate.gap, "explored": certificate.explored},
        "attempts": attempts,
    }


def _tried(attempts: Iterable[AttemptRecord]) -> tuple[list[str], list[dict[str, Any]], list[dict[str, Any]]]:
    """Experts, nodes with their shares of the joules, and what became of each attempt."""
    experts: list[str] = []
    shares: dict[str, dict[str, Any]] = {}
    told: list[dict[str, Any]] = []
    for attempt in attempts:
        arm, energy, predicted_j = attempt.arm, attempt.energy, attempt.predicted_energy_j
        joules = energy.energy_j if isfinite(energy.energy_j) else None
        expert, node = _places(arm)
        experts.append(expert)
        share = shares.get(node)
        if share is None:
            shares[node] = {"node": node, "joules": joules, "method": energy.method}
        else:
            share["joules"] = None if joules is None or share["joules"] is None else share["joules"] + joules
        told.append(
            {
                "arm": arm,
                "stage": attempt.stage,
                "outcome": attempt.outcome,
                "reason": attempt.reason or None,
                "joules": joules,
                "predicted_joules": predicted_j if isfinite(predicted_j) else None,
                "ms": attempt.ms,
                "predicted_ms": attempt.predicted_ms,
            }
        )
    return experts, [*shares.values()], told


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


@lru_cache(maxsize=4096)
def _places(arm: str) -> tuple[str, str]:
    """``expert@node`` and ``node`` of ``expert:variant@node``."""
    node = arm.rpartition("@")[2]
    return f"{arm.partition(':')[0]}@{node}", node


def cost_lines(energy: Energy, routing: RoutingRecord, timings: Timings, *, profile: str) -> str:
    """Headers of a reply that is complete, as of `header_lines`."""
    attempts, certificate, method = routing.attempts, routing.certificate, energy.method
    if not method.isprintable():
        # It is what a node says.
        method = one_line(method)
    experts = _places(attempts[0].arm)[0] if len(attempts) == 1 else ",".join([_places(one.arm)[0] for one in attempts])
    joules = "unmeasured" if energy.provenance is UNMEASURED else f"{energy.energy_j:.9g}"
    spent = (timings.route_ms, timings.wait_ms, timings.infer_ms, timings.fuse_ms, timings.total_ms)
    return (
        f"x-edgewise-experts: {experts}\r\n"
        f"x-edgewise-fusion: {routing.fusion._value_}\r\n"
        f"x-edgewise-policy: {profile}\r\n"
        f"x-edgewise-certificate: {certificate.status};gap={certificate.gap:.6g}\r\n"
        f"x-energy-joules: {joules}\r\n"
        f"x-energy-method: {energy.provenance._value_}:{method}\r\n"
        f"server-timing: {SERVER_TIMING % spent}\r\n"
    )


def usage_block(reply: TextReply) -> dict[str, Any]:
    """Tokens as OpenAI counts them: those of the answer that was given."""
    end = reply.end
    usage: dict[str, Any] = {
        "prompt_tokens": end.prompt_tokens,
        "completion_tokens": end.completion_tokens,
        "total_tokens": end.prompt_tokens + end.completion_tokens,
    }
    if end.cached_tokens is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": end.cached_tokens}
    return usage


def finish_reason(reply: TextReply) -> str:
    """OpenAI's word for it; a text that its budget ended has the length that was left for it."""
    if reply.end.tool_calls_json:
        return "tool_calls"
    return "length" if reply.end.finish_reason in ("length", "budget") else "stop"


def cost_blocks(reply: TextReply) -> dict[str, Any]:
    """The `energy` and `routing` blocks of a text."""
    stopped_by = "budget" if reply.end.finish_reason == "budget" else None
    timings = reply.timings
    energy, routing = blocks(reply.energy, reply.routing, timings.total_ms, stopped_by=stopped_by)
    # Milliseconds to the end; of a text that was sent in pieces also to the first token, and of each further one.
    routing["actual"] = {
        "ms": timings.total_ms,
        "first_token_ms": timings.first_token_ms,
        "token_ms": timings.token_ms,
    }
    return {"energy": energy, "routing": routing}


def candidates_block(explanation: Any) -> list[dict[str, Any]]:
    """What was considered, from an explanation's message."""
    return [
        {
            "route": one.route,
            "quality": _finite(one.quality),
            "predicted": {"joules": _finite(one.predicted_energy_j), "ms": _finite(one.predicted_ms)},
            "bound": {"joules": _finite(one.bound_energy_j), "ms": _finite(one.bound_ms)},
            "feasible": one.feasible,
            "excluded_by": one.excluded_by or None,
            "load_ms": _finite(one.load_ms),
            "cached_tokens": _finite(one.cached_tokens),
        }
        for one in explanation.candidates
    ]


def alone_block(explanation: Any) -> dict[str, Any] | None:
    """Whether one expert alone was the best choice, from an explanation's message; None where nothing could be
    combined."""
    found = verdict(explanation.chosen, explanation.candidates)
    if found is None:
        return None
    return {"chosen": found.alone, "rival": found.rival or None, "worth_more": _finite(found.worth_more)}


def logprobs_block(logprobs_json: str, *, chat: bool, offset: int = 0) -> dict[str, Any] | None:
    """Probabilities of tokens in the form of a chat or of a completion; None where nobody asked.

    Args:
        offset: Characters of the text before these tokens.
    """
    if not logprobs_json:
        return None
    content = json.loads(logprobs_json)
    if chat:
        return {"content": content, "refusal": None}
    tokens = [str(one.get("token", "")) for one in content]
    offsets = [offset + length for length in accumulate(map(len, tokens), initial=0)]
    return {
        "tokens": tokens,
        "token_logprobs": [one.get("logprob") for one in content],
        "top_logprobs": [
            {str(top.get("token", "")): top.get("logprob") for top in one.get("top_logprobs") or []} for one in content
        ],
        "text_offset": offsets[:-1],
    }


def whole(reply: TextReply, *, chat: bool, created_unix_s: int) -> dict[str, Any]:
    """The reply to a request that did not want a stream."""
    end = reply.end
    calls = json.loads(end.tool_calls_json) if end.tool_calls_json else None
    logprobs = logprobs_block(end.logprobs_json, chat=chat) if end.logprobs_json else None
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish_reason(reply), "logprobs": logprobs}
    if chat:
        message: dict[str, Any] = {"role": "assistant", "content": end.text, "refusal": None}
        if calls:
            message |= {"content": end.text or None, "tool_calls": calls}
        choice["message"] = message
    else:
        choice["text"] = end.text
    return {
        "id": reply_id(reply.request_id, chat=chat),
        "object": "chat.completion" if chat else "text_completion",
        "created": created_unix_s,
        "model": end.expert,
        "choices": [choice],
        "usage": usage_block(reply),
        **cost_blocks(reply),
    }


def id_lines(request_id: str) -> str:
    """The headers that tell the id of a request, in our own word and in that of OpenAI's clients."""
    return f"x-edgewise-request-id: {request_id}\r\nx-request-id: {request_id}\r\n"


def reply_id(request_id: str, *, chat: bool) -> str:
    """The id of a completion; what `edgewise why` takes follows the dash."""
    return f"{'chatcmpl' if chat else 'cmpl'}-{request_id}"
