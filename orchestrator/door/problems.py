"""Errors as OpenAI's clients read them, and as RFC 9457 has them. Pure."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from typing import Any

from orchestrator.errors import BudgetInfeasible, EdgewiseError

UNAUTHORIZED = 401
PACE = {"ttft_ms": "minTtftMs", "tpot_ms": "minTpotMs"}
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}


def openai_problem(error: EdgewiseError) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, OpenAI's envelope and headers of an error."""
    surface = error.surface
    kind = TYPES.get(surface.http_status, "invalid_request_error" if surface.http_status < 500 else "server_error")
    told: dict[str, Any] = {
        "message": error.message,
        "type": kind,
        "param": error.field,
        "code": surface.http_code,
        "request_id": _request_id(error),
    }
    if isinstance(error, BudgetInfeasible):
        told["min_feasible"] = {"energy_j": _finite(error.min_energy_j), "latency_ms": _finite(error.min_latency_ms)}
    elif "minTtftMs" in error.metadata:
        told["min_feasible"] = {name: float(error.metadata[key]) for name, key in PACE.items()}
    if error.reason == "EXPERT_LOADING":
        told["loading"] = _loading(error.metadata)
    return surface.http_status, {"error": told}, problem_headers(error)


def _loading(told: Mapping[str, str]) -> dict[str, Any]:
    """How far an expert is that is being loaded."""
    block: dict[str, Any] = {key: told[key] for key in ("state", "expert", "node") if key in told}
    numbers = {"progress": "progressFraction", "eta_seconds": "etaS"}
    return block | {key: float(told[name]) for key, name in numbers.items() if name in told}


def plain_problem(error: EdgewiseError) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, RFC 9457's object and headers of an error."""
    surface = error.surface
    told = {
        "type": "about:blank",
        "title": surface.http_code.replace("_", " "),
        "status": surface.http_status,
        "detail": error.message,
        "code": surface.http_code,
        "requestId": _request_id(error),
    }
    return surface.http_status, told, problem_headers(error) | {"content-type": "application/problem+json"}


def oip_problem(error: EdgewiseError) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, the Open Inference Protocol's object (a text under `error`) and headers of an error."""
    body = {"error": error.message, "code": error.surface.http_code, "requestId": _request_id(error)}
    return error.surface.http_status, body, problem_headers(error)


def problem_headers(error: EdgewiseError) -> dict[str, str]:
    """Headers that tell when to come back, how to show a key, and which request it was."""
    headers = {"x-edgewise-request-id": _request_id(error), "x-request-id": _request_id(error)}
    if error.surface.http_status == UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
        headers["retry-after-ms"] = str(max(1, math.ceil(error.retry_after_s * 1e3)))
    return headers


def _request_id(error: EdgewiseError) -> str:
    return error.metadata.setdefault("requestId", uuid.uuid4().hex)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
