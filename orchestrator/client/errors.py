"""Failed calls to our own errors: the only place where the client meets grpc's exceptions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from orchestrator.errors import (
    CATALOGUE,
    DOMAIN,
    BudgetInfeasible,
    DeadlineExceeded,
    EdgewiseError,
    ExitCode,
    InternalError,
    RequestError,
    Surface,
    Unavailable,
)

Detail = TypeVar("Detail", bound=Message)

DETAILS_KEY = "grpc-status-details-bin"
UNREACHABLE = Surface(grpc.StatusCode.UNAVAILABLE, 503, "gateway_unreachable", ExitCode.UNREACHABLE, True)


class GatewayUnreachable(Unavailable):
    """Nobody answers at the gateway's address, or the connection broke."""

    def __init__(self, target: str) -> None:
        super().__init__(
            "UNREACHABLE", f"No gateway answers at {target}.", metadata={"target": target}, retry_after_s=1.0
        )

    @property
    def surface(self) -> Surface:
        """Known to clients only, hence not in the catalogue of what a gateway can say."""
        return UNREACHABLE


class FailedCall(Protocol):
    """What grpc's sync and asyncio exceptions have in common."""

    def code(self) -> grpc.StatusCode: ...
    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


def translate(error: FailedCall, *, target: str, timeout_s: float) -> EdgewiseError:
    """The error that a failed call stands for.

    Args:
        error: The exception of grpc.
        target: Address of the gateway, for the text.
        timeout_s: Deadline of the call, for the text.
    """
    status = _rich_status(error)
    info = _detail(status, error_details_pb2.ErrorInfo())
    if status is None or info is None or info.domain != DOMAIN or info.reason not in CATALOGUE:
        return _from_code(error.code(), target=target, timeout_s=timeout_s)
    return _from_reason(info.reason, dict(info.metadata), status)


def _from_reason(reason: str, metadata: Mapping[str, str], status: status_pb2.Status) -> EdgewiseError:
    if reason == "BUDGET_INFEASIBLE":
        return BudgetInfeasible(
            min_energy_j=_number(metadata, "minEnergyJ"), min_latency_ms=_number(metadata, "minLatencyMs")
        )
    if reason == "DEADLINE_EXCEEDED":
        return DeadlineExceeded(_number(metadata, "maxLatencyMs"))
    if reason == "INTERNAL":
        return InternalError(metadata.get("requestId", "unknown"))
    retryable = CATALOGUE[reason].retryable
    kind = Unavailable if retryable else RequestError
    bad_request = _detail(status, error_details_pb2.BadRequest())
    retry = _detail(status, error_details_pb2.RetryInfo())
    return kind(
        reason,
        _printable(status.message),
        metadata=metadata,
        field=bad_request.field_violations[0].field if bad_request and bad_request.field_violations else None,
        retry_after_s=retry.retry_delay.ToNanoseconds() / 1e9 if retry else None,
    )


def _from_code(code: grpc.StatusCode, *, target: str, timeout_s: float) -> EdgewiseError:
    """For what grpc says itself, and for peers that are no gateway or a newer one."""
    match code:
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            # A server that stops cancels calls that reached it but not its handlers; we never cancel by this way.
            return GatewayUnreachable(target)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(timeout_s * 1e3)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return RequestError("INPUT_INVALID", "The message is larger than the gateway or the client allows.")
        case grpc.StatusCode.UNIMPLEMENTED:
            return RequestError("UNIMPLEMENTED", f"What answers at {target} does not know this call.")
        case grpc.StatusCode.INVALID_ARGUMENT:
            return RequestError("MALFORMED_MESSAGE", "The gateway refuses this request as malformed.")
        case _:
            return EdgewiseError("INTERNAL", f"The call failed with {code.name} and no explanation.")


def _rich_status(error: FailedCall) -> status_pb2.Status | None:
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            with contextlib.suppress(DecodeError):
                return status_pb2.Status.FromString(value)
    return None


def _detail(status: status_pb2.Status | None, kind: Detail) -> Detail | None:
    for detail in status.details if status else ():
        if detail.Unpack(kind):
            return kind
    return None


def _number(metadata: Mapping[str, str], key: str) -> float:
    try:
        return float(metadata.get(key, "nan"))
    except ValueError:
        return float("nan")


def _printable(text: str) -> str:
    """Text of a peer goes to terminals: no control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
