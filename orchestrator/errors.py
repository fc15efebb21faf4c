"""What can go wrong between a client and an answer, and how each case looks on every surface.

::

    EdgewiseError
    ├── RequestError            the caller must change something
    ├── BudgetInfeasible        nothing fits the joules or milliseconds asked for
    ├── BudgetExhausted         what the caller may spend in this window is spent or held
    ├── Unavailable             try again: overload, no node, expert loading, attempts failed
    ├── DeadlineExceeded        the latency budget ran out
    └── InternalError           our fault; the text never leaves the process

One table, `CATALOGUE`, maps the stable reason of an error to its gRPC status, HTTP status and code, the CLI's exit
code and whether the same call may be retried. Reasons never change; texts may.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from types import MappingProxyType

import grpc

DOMAIN = "edgewise"
MAX_MESSAGE_CHARS = 200


class ExitCode(IntEnum):
    """Exit codes of the `edgewise` command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CONFIG = 3
    NOT_FOUND = 4
    AUTH = 5
    UNREACHABLE = 6
    BUDGET_INFEASIBLE = 7
    ENGINE_FAILED = 8
    ENERGY_SOURCE_MISSING = 9
    INTERRUPTED = 130


@dataclass(frozen=True)
class Surface:
    """How one reason looks from outside."""

    grpc_code: grpc.StatusCode
    http_status: int
    http_code: str
    exit_code: ExitCode
    retryable: bool


_INVALID = grpc.StatusCode.INVALID_ARGUMENT


def _request(http_code: str) -> Surface:
    return Surface(_INVALID, 400, http_code, ExitCode.USAGE, False)


def _not_found(http_code: str) -> Surface:
    return Surface(grpc.StatusCode.NOT_FOUND, 404, http_code, ExitCode.NOT_FOUND, False)


def _unavailable(http_code: str, exit_code: ExitCode = ExitCode.UNREACHABLE) -> Surface:
    return Surface(grpc.StatusCode.UNAVAILABLE, 503, http_code, exit_code, True)


def _unauthenticated(http_code: str) -> Surface:
    return Surface(grpc.StatusCode.UNAUTHENTICATED, 401, http_code, ExitCode.AUTH, False)


def _denied(http_code: str) -> Surface:
    return Surface(grpc.StatusCode.PERMISSION_DENIED, 403, http_code, ExitCode.AUTH, False)


CATALOGUE: Mapping[str, Surface] = MappingProxyType(
    {
        "MALFORMED_MESSAGE": _request("malformed_message"),
        "FIELD_REQUIRED": _request("field_required"),
        "FIELD_OUT_OF_RANGE": _request("field_out_of_range"),
        "BUDGET_NOT_FINITE": _request("budget_not_finite"),
        "BUDGET_OUT_OF_RANGE": _request("budget_out_of_range"),
        "DEADLINE_REQUIRED": _request("deadline_required"),
        "SHAPE_MISMATCH": _request("shape_mismatch"),
        "DTYPE_MISMATCH": _request("dtype_mismatch"),
        "INPUT_NOT_FINITE": _request("input_not_finite"),
        "NAME_INVALID": _request("name_invalid"),
        "INPUT_INVALID": _request("input_invalid"),
        "PROMPT_TOO_LONG": _request("context_length_exceeded"),
        "CAPABILITY_MISSING": _request("capability_missing"),
        "DUPLICATE_KEY": _request("duplicate_key"),
        "INVALID_TEXT": _request("invalid_text"),
        "BODY_TOO_LARGE": Surface(_INVALID, 413, "body_too_large", ExitCode.USAGE, False),
        "BODY_TOO_SLOW": Surface(_INVALID, 408, "body_too_slow", ExitCode.USAGE, False),
        "MEDIA_TYPE_NOT_ALLOWED": Surface(_INVALID, 415, "media_type_not_allowed", ExitCode.USAGE, False),
        "METHOD_NOT_ALLOWED": Surface(_INVALID, 405, "method_not_allowed", ExitCode.USAGE, False),
        "ARTIFACT_INVALID": _request("artifact_invalid"),
        "ARTIFACT_PATH_ESCAPE": _request("artifact_path_escape"),
        "OP_NOT_ALLOWED": _request("op_not_allowed"),
        "WEIGHTS_NOT_FINITE": _request("weights_not_finite"),
        "ARCHIVE_UNSAFE": _request("archive_unsafe"),
        "DIGEST_INVALID": _request("digest_invalid"),
        "FORMAT_NOT_ALLOWED": Surface(_INVALID, 415, "format_not_allowed", ExitCode.USAGE, False),
        "ARTIFACT_TOO_LARGE": Surface(
            grpc.StatusCode.RESOURCE_EXHAUSTED, 413, "artifact_too_large", ExitCode.USAGE, False
        ),
        "ENGINE_NOT_LOCAL": Surface(
            grpc.StatusCode.FAILED_PRECONDITION, 409, "engine_not_local", ExitCode.USAGE, False
        ),
        "UPLOAD_OFFSET": Surface(grpc.StatusCode.OUT_OF_RANGE, 416, "upload_offset", ExitCode.FAILED, False),
        "UPLOAD_TOO_SLOW": Surface(grpc.StatusCode.DEADLINE_EXCEEDED, 408, "upload_too_slow", ExitCode.FAILED, False),
        "MODEL_NOT_FOUND": _not_found("pushed_model_not_found"),
        "MODEL_EXISTS": Surface(grpc.StatusCode.ALREADY_EXISTS, 409, "model_exists", ExitCode.CONFIG, False),
        "MODEL_FAILED": Surface(grpc.StatusCode.ABORTED, 502, "model_failed", ExitCode.ENGINE_FAILED, False),
        "MODELS_OFF": Surface(grpc.StatusCode.FAILED_PRECONDITION, 409, "models_off", ExitCode.CONFIG, False),
        "SANDBOX_MISSING": Surface(grpc.StatusCode.FAILED_PRECONDITION, 409, "sandbox_missing", ExitCode.CONFIG, False),
        "PATH_NOT_FOUND": _not_found("path_not_found"),
        "TASK_NOT_FOUND": _not_found("task_not_found"),
        "EXPERT_NOT_FOUND": _not_found("model_not_found"),
        "REQUEST_NOT_FOUND": _not_found("request_not_found"),
        "NODE_NOT_FOUND": _not_found("node_not_found"),
        "TOKEN_NOT_FOUND": _not_found("token_not_found"),
        "SLEEP_OFF": Surface(grpc.StatusCode.FAILED_PRECONDITION, 409, "sleep_off", ExitCode.CONFIG, False),
        "FEEDBACK_EXPIRED": Surface(
            grpc.StatusCode.FAILED_PRECONDITION, 410, "feedback_expired", ExitCode.NOT_FOUND, False
        ),
        "PERSONAL_OFF": Surface(grpc.StatusCode.FAILED_PRECONDITION, 409, "personal_off", ExitCode.CONFIG, False),
        "PERSONAL_FAILED": Surface(grpc.StatusCode.ABORTED, 502, "personal_failed", ExitCode.FAILED, False),
        "MODEL_FIXED": Surface(grpc.StatusCode.FAILED_PRECONDITION, 409, "model_fixed", ExitCode.CONFIG, False),
        "HOME_AWAY": _unavailable("home_away"),
        "BUDGET_INFEASIBLE": Surface(
            grpc.StatusCode.FAILED_PRECONDITION, 422, "budget_infeasible", ExitCode.BUDGET_INFEASIBLE, False
        ),
        "DEADLINE_EXCEEDED": Surface(
            grpc.StatusCode.DEADLINE_EXCEEDED, 504, "deadline_exceeded", ExitCode.FAILED, False
        ),
        "BUDGET_EXHAUSTED": Surface(
            grpc.StatusCode.RESOURCE_EXHAUSTED, 429, "budget_exhausted", ExitCode.BUDGET_INFEASIBLE, False
        ),
        "CREDENTIAL_INVALID": _unauthenticated("credential_invalid"),
        "CREDENTIAL_EXPIRED": _unauthenticated("credential_expired"),
        "PERMISSION_DENIED": _denied("permission_denied"),
        "IDENTITY_REQUIRED": _denied("identity_required"),
        "IDENTITY_REVOKED": _denied("identity_revoked"),
        "NODE_EXISTS": Surface(grpc.StatusCode.ALREADY_EXISTS, 409, "node_exists", ExitCode.AUTH, False),
        "TOO_MANY_ATTEMPTS": Surface(
            grpc.StatusCode.RESOURCE_EXHAUSTED, 429, "too_many_attempts", ExitCode.AUTH, False
        ),
        "CONFIG_INVALID": Surface(grpc.StatusCode.FAILED_PRECONDITION, 409, "config_invalid", ExitCode.CONFIG, False),
        "RESTART_NEEDED": Surface(grpc.StatusCode.FAILED_PRECONDITION, 409, "restart_needed", ExitCode.CONFIG, False),
        "TLS_OFF": Surface(grpc.StatusCode.FAILED_PRECONDITION, 409, "tls_off", ExitCode.CONFIG, False),
        "KEY_NOT_FOUND": _not_found("key_not_found"),
        "REQUEST_IN_PROGRESS": Surface(grpc.StatusCode.ABORTED, 409, "request_in_progress", ExitCode.FAILED, False),
        "REQUEST_ID_REUSED": Surface(_INVALID, 422, "request_id_reused", ExitCode.USAGE, False),
        "STORE_FULL": Surface(grpc.StatusCode.RESOURCE_EXHAUSTED, 507, "store_full", ExitCode.FAILED, False),
        "STORE_FAILED": _unavailable("store_failed", ExitCode.FAILED),
        "STORE_CORRUPT": Surface(grpc.StatusCode.DATA_LOSS, 500, "store_corrupt", ExitCode.FAILED, False),
        "STORE_IN_USE": Surface(grpc.StatusCode.FAILED_PRECONDITION, 409, "store_in_use", ExitCode.CONFIG, False),
        "STORE_NEWER": Surface(grpc.StatusCode.FAILED_PRECONDITION, 409, "store_newer", ExitCode.CONFIG, False),
        "IDENTITY_STORE_FAILED": _unavailable("identity_store_failed"),
        "AUTHORITY_DIFFERS": Surface(
            grpc.StatusCode.FAILED_PRECONDITION, 409, "authority_differs", ExitCode.CONFIG, False
        ),
        "STORE_UNSAFE": Surface(grpc.StatusCode.FAILED_PRECONDITION, 409, "store_unsafe", ExitCode.CONFIG, False),
        "NO_NODE": _unavailable("no_node"),
        "EXPERT_LOADING": _unavailable("model_loading"),
        "OVERLOADED": _unavailable("overloaded"),
        "DRAINING": _unavailable("draining"),
        "ATTEMPTS_FAILED": _unavailable("attempts_failed", ExitCode.ENGINE_FAILED),
        "EXPERT_LOST": _unavailable("expert_lost", ExitCode.ENGINE_FAILED),
        "UNIMPLEMENTED": Surface(grpc.StatusCode.UNIMPLEMENTED, 501, "unimplemented", ExitCode.USAGE, False),
        "INTERNAL": Surface(grpc.StatusCode.INTERNAL, 500, "internal", ExitCode.FAILED, False),
    }
)


class EdgewiseError(Exception):
    """Root of all errors that reach a caller.

    Args:
        reason: A key of `CATALOGUE`.
        message: One sentence: what was wrong and what would be right. Never echoes input.
        metadata: Every variable of the message, keys in lowerCamel.
        field: The request's field at fault, as a path such as ``inputs[0].shape``.
        retry_after_s: When the same call may succeed.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        field: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message[:MAX_MESSAGE_CHARS]
        self.metadata = dict(metadata or {})
        self.field = field
        self.retry_after_s = retry_after_s

    @property
    def surface(self) -> Surface:
        """How this error looks on gRPC, HTTP and the command line."""
        return CATALOGUE[self.reason]


class RequestError(EdgewiseError):
    """The request cannot be served as it stands."""


def _rounded_up(value: float) -> str:
    """Three significant digits, never less than `value`: whoever types the number gets what it promises."""
    text = f"{value:.3g}"
    if float(text) >= value:
        return text
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{(math.floor(value / step) + 1) * step:.3g}"


class BudgetInfeasible(EdgewiseError):
    """No route fits the budget; carries the smallest budget that would do."""

    def __init__(self, *, min_energy_j: float, min_latency_ms: float) -> None:
        super().__init__(
            "BUDGET_INFEASIBLE",
            f"No expert fits this budget; the smallest that would do is {_rounded_up(min_energy_j)} J and"
            f" {_rounded_up(min_latency_ms)} ms, or set on_infeasible."
            if math.isfinite(min_energy_j)
            else "No expert fits this budget: those that could answer do not know their joules; drop the joule limit.",
            metadata={"minEnergyJ": repr(min_energy_j), "minLatencyMs": repr(min_latency_ms)},
            field="budget",
        )
        self.min_energy_j = min_energy_j
        self.min_latency_ms = min_latency_ms


class BudgetExhausted(EdgewiseError):
    """A budget over time has too little left.

    Args:
        scope: Whose budget: ``fleet``, ``tenant:NAME``, ``key:ID`` or ``task:NAME``.
        unit: What it counts: ``day_j``, ``mean_j`` or ``day_tokens``.
        limit: Of one window.
        left: What could still be reserved.
        resets_unix_s: When the next window begins.
        now_unix_s: Wall time.
    """

    def __init__(
        self, scope: str, unit: str, *, limit: float, left: float, resets_unix_s: float, now_unix_s: float
    ) -> None:
        reset_at = datetime.fromtimestamp(resets_unix_s, UTC).isoformat(timespec="seconds")
        super().__init__(
            "BUDGET_EXHAUSTED",
            f"The budget of {scope} ({unit}) has too little left for this request until {reset_at}.",
            metadata={
                "scope": scope,
                "unit": unit,
                "limit": repr(limit),
                "left": repr(max(0.0, left)),
                "resetAt": reset_at,
            },
            retry_after_s=max(0.0, resets_unix_s - now_unix_s),
        )
        self.scope = scope
        self.unit = unit
        self.limit = limit
        self.left = max(0.0, left)


class Unavailable(EdgewiseError):
    """The same call may succeed later."""


class DeadlineExceeded(EdgewiseError):
    """The latency budget ran out before an answer was there."""

    def __init__(self, latency_ms: float) -> None:
        super().__init__(
            "DEADLINE_EXCEEDED",
            f"No answer within the latency budget of {latency_ms:.4g} ms.",
            metadata={"maxLatencyMs": repr(latency_ms)},
        )


class InternalError(EdgewiseError):
    """A bug on our side. Only the request id is told to the caller; the cause goes to the log."""

    def __init__(self, request_id: str) -> None:
        super().__init__(
            "INTERNAL", f"Internal error. Quote request id {request_id}.", metadata={"requestId": request_id}
        )
