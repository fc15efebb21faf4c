"""The outermost layer of every gRPC method: what does not parse, has no deadline or raises never leaks and is never
UNKNOWN.

Errors leave as `google.rpc.Status` with one ErrorInfo (stable reason, domain, metadata) and, where they fit,
BadRequest, RetryInfo or PreconditionFailure.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc
import structlog
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from orchestrator.errors import DOMAIN, BudgetExhausted, EdgewiseError, InternalError, RequestError

log = structlog.get_logger("guard")

# Calls of these services live as long as they like.
UNBOUNDED_PREFIXES = ("/edgewise.v1.Fleet/", "/grpc.health.v1.", "/grpc.reflection.")

Handler = Any
Admit = Callable[[str, Any], None]
Instead = Callable[[EdgewiseError], EdgewiseError]


class Malformed:
    """Stands in for a message that could not be decoded."""


MALFORMED = Malformed()


def rich_status(error: EdgewiseError, request_id: str) -> Any:
    """The gRPC status of an error."""
    metadata = {"requestId": request_id, **error.metadata}
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    if error.surface.grpc_code is grpc.StatusCode.INVALID_ARGUMENT and error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.surface.grpc_code is grpc.StatusCode.FAILED_PRECONDITION:
        broken = error_details_pb2.PreconditionFailure.Violation(
            type=error.reason, subject=error.field or "", description=error.message
        )
        details.append(error_details_pb2.PreconditionFailure(violations=[broken]))
    if isinstance(error, BudgetExhausted):
        spent = error_details_pb2.QuotaFailure.Violation(subject=error.scope, description=error.message)
        details.append(error_details_pb2.QuotaFailure(violations=[spent]))
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration(nanos=0)
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=error.surface.grpc_code.value[0], message=error.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return rpc_status.to_status(status)


def _safe(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    if deserialize is None:
        return bytes

    def decode(data: bytes) -> Any:
        try:
            return deserialize(data)
        except Exception:  # the rim: whatever a decoder raises means that the message is malformed
            return MALFORMED

    return decode


class GuardedServer:
    """Stands in for the server while services are added to it, and guards every handler on its way there.

    Wrapping once, at the start, costs a call nothing; an interceptor would be asked anew for every call. A service
    that is added past this object is a mistake: a test lists all methods and calls each without a deadline.

    Args:
        server: The real one.
        max_deadline_s: Longest deadline that a call may have.
        admit: Lets a call of a method in by its metadata, or raises; asked before anything else.
        instead: What to tell in place of an error.
    """

    def __init__(
        self,
        server: grpc.aio.Server,
        *,
        max_deadline_s: float,
        admit: Admit,
        instead: Instead = lambda error: error,
    ) -> None:
        self._server = server
        self._admit = admit
        self._instead = instead
        self._max_deadline_s = max_deadline_s
        self.methods: list[str] = []

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Left out: the registered handlers, added next, are the same ones by name."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Guard the handlers of a service and hand them on."""
        guarded = {name: self._wrap(f"/{service}/{name}", handler) for name, handler in handlers.items()}
        self.methods += [f"/{service}/{name}" for name in handlers]
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, guarded),))

    def _wrap(self, method: str, handler: Handler) -> Handler:
        bounded = not method.startswith(UNBOUNDED_PREFIXES)
        kinds: dict[str, Any] = {
            "request_deserializer": _safe(handler.request_deserializer),
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(self._unary(handler.unary_unary, method, bounded), **kinds)
        if handler.unary_stream is not None:
            # A handler that writes by itself is awaited, one that yields is iterated; grpc tells them apart alike.
            yields = inspect.isasyncgenfunction(handler.unary_stream)
            guarded = (self._stream if yields else self._unary)(handler.unary_stream, method, bounded)
            return grpc.unary_stream_rpc_method_handler(guarded, **kinds)
        yields = inspect.isasyncgenfunction(handler.stream_stream)
        session = (self._conversation if yields else self._session)(handler.stream_stream, method)
        return grpc.stream_stream_rpc_method_handler(session, **kinds)

    def _unary(self, behaviour: Any, method: str, bounded: bool) -> Any:
        async def call(request: Any, context: Any) -> Any:
            try:
                self._admit(method, context.invocation_metadata())
                self._check(request, context, bounded)
                return await behaviour(request, context)
            except asyncio.CancelledError:
                raise
            except Exception as error:  # the rim
                await self._abort(context, error)

        return call

    def _stream(self, behaviour: Any, method: str, bounded: bool) -> Any:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                self._admit(method, context.invocation_metadata())
                self._check(request, context, bounded)
                async for response in behaviour(request, context):
                    yield response
            except asyncio.CancelledError:
                raise
            except Exception as error:  # the rim
                await self._abort(context, error)

        return call

    def _session(self, behaviour: Any, method: str) -> Any:
        async def call(requests: Any, context: Any) -> None:
            try:
                self._admit(method, context.invocation_metadata())
                await behaviour(requests, context)
            except asyncio.CancelledError:
                raise
            except Exception as error:  # the rim
                await self._abort(context, error)

        return call

    def _conversation(self, behaviour: Any, method: str) -> Any:
        async def call(requests: Any, context: Any) -> AsyncIterator[Any]:
            try:
                self._admit(method, context.invocation_metadata())
                async for response in behaviour(_well_formed(requests), context):
                    yield response
            except asyncio.CancelledError:
                raise
            except Exception as error:  # the rim
                await self._abort(context, error)

        return call

    def _check(self, request: Any, context: Any, bounded: bool) -> None:
        if isinstance(request, Malformed):
            raise _malformed()
        if not bounded:
            return
        left_s = context.time_remaining()
        if left_s is None or not math.isfinite(left_s) or left_s > self._max_deadline_s:
            limit_s = self._max_deadline_s
            raise RequestError(
                "DEADLINE_REQUIRED",
                f"A deadline of at most {limit_s:g} s is required; set a timeout on the call.",
                metadata={"maxDeadlineS": f"{limit_s:g}"},
            )

    async def _abort(self, context: Any, error: Exception) -> None:
        if isinstance(error, (grpc.aio.AbortError, grpc.aio.BaseError)):
            raise error
        request_id = uuid.uuid4().hex
        if not isinstance(error, EdgewiseError):
            log.error("internal_error", request_id=request_id, exc_info=error)
            error = InternalError(request_id)
        await context.abort_with_status(rich_status(self._instead(error), request_id))


def _malformed() -> RequestError:
    return RequestError("MALFORMED_MESSAGE", "Request is not a valid message.")


async def _well_formed(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        if isinstance(request, Malformed):
            raise _malformed()
        yield request
