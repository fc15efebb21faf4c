"""Why a request was answered as it was, with what its text did not have to be read again for."""

from __future__ import annotations

from edgewise.v1 import gateway_pb2
from orchestrator.gateway.replies import encode_explanation
from orchestrator.journal import Entry


def explain(entry: Entry) -> gateway_pb2.ExplainResponse:
    """The message that tells why."""
    response = encode_explanation(entry)
    cached_r = None if entry.decision is None else entry.decision.table.cached_tokens()
    if entry.decision is None or cached_r is None:
        return response
    cached = {bound.name: tokens for bound, tokens in zip(entry.decision.table.bound, cached_r, strict=True)}
    for candidate in response.candidates:
        candidate.cached_tokens = cached[candidate.route]
    return response
