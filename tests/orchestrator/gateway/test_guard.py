"""The outermost layer: every method is behind it, and nothing of the inside passes it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.empty_pb2 import Empty
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from edgewise.v1 import admin_pb2, fleet_pb2, gateway_pb2
from orchestrator.errors import CATALOGUE, EdgewiseError, RequestError
from orchestrator.gateway.guard import GuardedServer
from orchestrator.journal import Entry, Journal
from tests.fakes.behaviours import answers
from tests.fakes.live import Live
from tests.orchestrator.gateway.calls import digit, infer, refusal, untyped

GARBAGE = b"\xff" * 40
SECRET = "secret path /srv/keys token=abc123"
FILES = (gateway_pb2, admin_pb2, fleet_pb2, health_pb2, reflection_pb2)
METHODS = [
    method for file in FILES for service in file.DESCRIPTOR.services_by_name.values() for method in service.methods
]


def path_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def test_there_are_methods_to_check() -> None:
    assert len(METHODS) >= 11


async def send_garbage(live: Live, method: MethodDescriptor) -> list[bytes]:
    channel, path = untyped(live.channel), path_of(method)
    match method.client_streaming, method.server_streaming:
        case False, False:
            return [await channel.unary_unary(path)(GARBAGE, timeout=5)]
        case False, True:
            return [reply async for reply in channel.unary_stream(path)(GARBAGE, timeout=5)]
        case _:
            return [reply async for reply in channel.stream_stream(path)(iter([GARBAGE]), timeout=5)]


@pytest.mark.parametrize("method", METHODS, ids=path_of)
async def test_garbage_is_malformed_for_every_method_of_every_service(live: Live, method: MethodDescriptor) -> None:
    if path_of(method) == "/edgewise.v1.Fleet/Connect":
        # A node is told in its own words why it is not taken.
        (reply,) = await send_garbage(live, method)
        rejected = fleet_pb2.ToNode.FromString(reply).commands[0].rejected
        assert (rejected.reason, rejected.retryable) == ("MALFORMED_MESSAGE", False)
        return
    await refusal(send_garbage(live, method), "MALFORMED_MESSAGE")


class Exploding(Journal):
    """A journal with a bug in it."""

    def __init__(self) -> None:
        super().__init__(keep=1)

    def get(self, request_id: str, tenant: str | None = None) -> Entry:
        raise RuntimeError(SECRET)


async def test_the_text_of_a_bug_stays_inside(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    live.gateway.service.journal = Exploding()
    call = live.stub.Explain(gateway_pb2.ExplainRequest(request_id="r1"), timeout=5)
    found = await refusal(call, "INTERNAL", secrets=[SECRET, "secret", "abc123"])
    assert found.metadata["requestId"] in found.message
    # The operator finds it by that id.
    printed = capsys.readouterr()
    assert found.metadata["requestId"] in printed.out + printed.err
    assert "abc123" in printed.out + printed.err


async def test_a_bug_in_the_way_of_a_query_is_told_by_the_querys_id_in_the_journal(live: Live) -> None:
    async with live.node(behaviour=answers(7)):
        live.gateway.service.budgets.resolve = None  # type: ignore[method-assign, assignment]
        await refusal(infer(live, digit(request_id="r1")), "INTERNAL", secrets=["NoneType"])
        assert live.gateway.service.journal.get("r1").outcome == "INTERNAL"
        assert live.gateway.service.admission.running == 0


# ---- the guard alone, in front of handlers that misbehave


async def raises(request: Any, context: Any) -> Any:
    raise RuntimeError(SECRET)


async def refuses(request: Any, context: Any) -> Any:
    raise RequestError("INPUT_INVALID", "Not like this.", metadata={"key": "value"}, field="a.b")


async def aborts(request: Any, context: Any) -> Any:
    await context.abort(grpc.StatusCode.NOT_FOUND, "mine")


async def streams_then_raises(request: Any, context: Any) -> AsyncIterator[Any]:
    yield Empty()
    raise RuntimeError(SECRET)


async def converses_then_raises(requests: Any, context: Any) -> AsyncIterator[Any]:
    async for _ in requests:
        yield Empty()
        raise RuntimeError(SECRET)


async def session_raises(requests: Any, context: Any) -> None:
    raise KeyError(SECRET)


def handlers() -> dict[str, Any]:
    """Handlers without any protection of their own."""
    kinds: dict[str, Any] = {"request_deserializer": Empty.FromString, "response_serializer": _serialise}
    unary = {"raises": raises, "refuses": refuses, "aborts": aborts}
    found: dict[str, Any] = {
        name: grpc.unary_unary_rpc_method_handler(behaviour, **kinds) for name, behaviour in unary.items()
    }
    found["streams"] = grpc.unary_stream_rpc_method_handler(streams_then_raises, **kinds)
    found["converses"] = grpc.stream_stream_rpc_method_handler(converses_then_raises, **kinds)
    found["session"] = grpc.stream_stream_rpc_method_handler(session_raises, **kinds)
    return found


def _serialise(message: Empty) -> bytes:
    return message.SerializeToString()


@pytest.fixture
async def naked() -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server()
    GuardedServer(server, max_deadline_s=60.0, admit=lambda method, metadata: None).add_registered_method_handlers(
        "test.Naked", handlers()
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


async def once(channel: grpc.aio.Channel, name: str, **options: Any) -> bytes:
    reply: bytes = await untyped(channel).unary_unary(f"/test.Naked/{name}")(b"", **({"timeout": 5} | options))
    return reply


async def test_a_handler_that_raises(naked: grpc.aio.Channel) -> None:
    await refusal(once(naked, "raises"), "INTERNAL", secrets=["secret", "abc123"])


async def test_a_handler_that_refuses(naked: grpc.aio.Channel) -> None:
    found = await refusal(once(naked, "refuses"), "INPUT_INVALID")
    assert (found.field, found.metadata["key"], found.message) == ("a.b", "value", "Not like this.")


async def test_a_handler_that_has_aborted_by_itself_is_left_alone(naked: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await once(naked, "aborts")
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "mine")


@pytest.mark.parametrize("name", ["streams", "converses"])
async def test_a_stream_that_breaks_keeps_what_it_has_sent(naked: grpc.aio.Channel, name: str) -> None:
    channel = untyped(naked)
    if name == "streams":
        stream = channel.unary_stream("/test.Naked/streams")(b"", timeout=5)
    else:
        stream = channel.stream_stream("/test.Naked/converses")(iter([b""]), timeout=5)
    replies = []

    async def collect() -> None:
        async for reply in stream:
            replies.append(reply)

    await refusal(collect(), "INTERNAL", secrets=["secret", "abc123"])
    assert replies == [b""]


async def test_a_session_that_breaks(naked: grpc.aio.Channel) -> None:
    stream = untyped(naked).stream_stream("/test.Naked/session")(iter([b""]), timeout=5)
    await refusal(stream.read(), "INTERNAL", secrets=["secret", "abc123"])


async def test_deadlines_are_asked_for_before_anything_runs(naked: grpc.aio.Channel) -> None:
    await refusal(once(naked, "raises", timeout=None), "DEADLINE_REQUIRED")
    await refusal(once(naked, "raises", timeout=61), "DEADLINE_REQUIRED")


async def test_a_cancelled_call_is_cancelled(live: Live) -> None:
    async with live.node(behaviour=_forever) as node:
        call: Any = live.stub.Infer(digit(), timeout=5)
        await node.received(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


async def _forever(turn: Any) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("reason", sorted(CATALOGUE))
def test_every_reason_has_a_status_that_is_not_unknown(reason: str) -> None:
    surface = EdgewiseError(reason, "x").surface
    assert surface.grpc_code not in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.OK)
    assert surface.retryable == (surface.grpc_code is grpc.StatusCode.UNAVAILABLE)
    assert reason.isupper()
    assert len(reason) <= 63


def test_messages_are_cut_to_size_whatever_is_put_into_them() -> None:
    assert len(RequestError("INPUT_INVALID", "x" * 5000).message) == 200
