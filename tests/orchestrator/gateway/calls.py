"""Calls of a gateway as a careless or hostile client makes them, and what every refusal must look like."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from edgewise.v1 import common_pb2 as common
from edgewise.v1 import gateway_pb2 as gateway
from orchestrator.errors import CATALOGUE, DOMAIN, MAX_MESSAGE_CHARS
from orchestrator.wire import encode_tensor
from tests.fakes.live import Live

INFER = "/edgewise.v1.Gateway/Infer"
TIMEOUT_S = 5.0
# Class names, paths, addresses of objects, tracebacks: nothing of our inside is told.
INSIDE = re.compile(r"Traceback|\bat 0x|[A-Z][a-z]+[A-Z][a-z]+\w*|(^|\s)/\w+/|\.py\b|Exception|_pb2")


@dataclass(frozen=True)
class Refused:
    """A call's error in full."""

    code: grpc.StatusCode
    message: str
    info: error_details_pb2.ErrorInfo | None
    bad_request: error_details_pb2.BadRequest | None
    retry_s: float | None
    precondition: error_details_pb2.PreconditionFailure | None

    @property
    def reason(self) -> str:
        return self.info.reason if self.info else ""

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.info.metadata if self.info else {}

    @property
    def field(self) -> str:
        return self.bad_request.field_violations[0].field if self.bad_request else ""


def digit(**fields: Any) -> gateway.InferRequest:
    """A good request, but for `fields`."""
    image = encode_tensor("image", np.zeros((1, 8, 8), dtype=np.float32))
    known: dict[str, Any] = {"task": "digits", "inputs": [image]}
    return gateway.InferRequest(**(known | fields))


def tensor(**fields: Any) -> common.Tensor:
    """A good input, but for `fields`."""
    known: dict[str, Any] = {
        "name": "image",
        "dtype": common.DTYPE_FLOAT32,
        "shape": [1, 8, 8],
        "data": bytes(256),
    }
    return common.Tensor(**(known | fields))


def chat(text: str = "hello", **fields: Any) -> gateway.GenerateRequest:
    """A good text request, but for `fields`."""
    messages = [common.ChatMessage(role="user", content=text)]
    return gateway.GenerateRequest(**({"task": "chat", "messages": messages} | fields))


def untyped(channel: grpc.aio.Channel) -> Any:
    """The channel for calls whose messages are bytes: its stubs ask for serialisers."""
    return channel


async def raw(live: Live, data: bytes, *, method: str = INFER, **options: Any) -> bytes:
    """Send any bytes to a unary method."""
    reply: bytes = await untyped(live.channel).unary_unary(method)(data, **({"timeout": TIMEOUT_S} | options))
    return reply


async def infer(live: Live, request: gateway.InferRequest, **options: Any) -> gateway.InferResponse:
    """Send a request."""
    stub: Any = live.stub
    reply: gateway.InferResponse = await stub.Infer(request, **({"timeout": TIMEOUT_S} | options))
    return reply


async def generate(live: Live, request: gateway.GenerateRequest, **options: Any) -> list[gateway.GenerateEvent]:
    """All events of a generation."""
    stub: Any = live.stub
    return [event async for event in stub.Generate(request, **({"timeout": TIMEOUT_S} | options))]


def refused(error: grpc.aio.AioRpcError) -> Refused:
    """The error's parts, each at most once."""
    call: Any = error
    status = rpc_status.from_call(call)
    details = list(status.details) if status is not None else []
    retry = _detail(details, error_details_pb2.RetryInfo())
    return Refused(
        code=error.code(),
        message=error.details() or "",
        info=_detail(details, error_details_pb2.ErrorInfo()),
        bad_request=_detail(details, error_details_pb2.BadRequest()),
        retry_s=retry.retry_delay.ToNanoseconds() / 1e9 if retry else None,
        precondition=_detail(details, error_details_pb2.PreconditionFailure()),
    )


def _detail(details: Sequence[Any], kind: Any) -> Any:
    found: list[Message] = [kind.__class__() for detail in details if detail.Is(kind.DESCRIPTOR)]
    assert len(found) <= 1
    for detail in details:
        if detail.Unpack(kind):
            return kind
    return None


async def refusal(awaitable: Any, reason: str, *, secrets: Sequence[str] = ()) -> Refused:
    """The refusal of a call, which must be of this reason and be told as every refusal is told.

    Args:
        awaitable: The call.
        reason: Key of the catalogue.
        secrets: What was sent and must not come back.
    """
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    found = refused(caught.value)
    assert (found.reason, found.code) == (reason, CATALOGUE[reason].grpc_code), found
    assert found.info is not None
    assert found.info.domain == DOMAIN
    assert found.metadata["requestId"]
    assert 0 < len(found.message) <= MAX_MESSAGE_CHARS
    assert not INSIDE.search(found.message), found.message
    told = found.message + "".join(f"{key}={value}" for key, value in found.metadata.items())
    assert not [secret for secret in secrets if secret in told]
    if found.code is grpc.StatusCode.FAILED_PRECONDITION:
        assert found.precondition is not None
    return found


async def library_refusal(awaitable: Any, code: grpc.StatusCode) -> str:
    """The text of a refusal that gRPC itself decides."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    text = caught.value.details() or ""
    assert caught.value.code() is code, (caught.value.code(), text)
    assert not INSIDE.search(text)
    return text
