"""Health, reflection and the HTTP side: what an operator's tools ask."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from orchestrator import __version__
from orchestrator.config import GatewayConfig
from orchestrator.gateway.app import build, listening
from orchestrator.gateway.ports import CannotListen
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import answers
from tests.fakes.live import Live, live_gateway, until
from tests.fakes.ports import free_port
from tests.orchestrator.gateway.calls import digit, infer

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
GATEWAY, ADMIN, FLEET = "edgewise.v1.Gateway", "edgewise.v1.Admin", "edgewise.v1.Fleet"


async def health(live: Live, service: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(live.channel)
    reply = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
    status: int = reply.status
    return status


async def wait_for(live: Live, status: int) -> None:
    async with asyncio.timeout(5):
        while await health(live) != status:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


# ---- grpc.health.v1


async def test_queries_are_served_only_with_a_plan_and_nodes_always(live: Live) -> None:
    assert [await health(live, name) for name in ("", GATEWAY)] == [NOT_SERVING] * 2
    assert [await health(live, name) for name in (ADMIN, FLEET)] == [SERVING] * 2
    async with live.node(behaviour=answers(7)):
        await wait_for(live, SERVING)
        assert await health(live, GATEWAY) == SERVING
    await wait_for(live, NOT_SERVING)
    assert await health(live, GATEWAY) == NOT_SERVING


async def test_an_unknown_service(live: Live) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health(live, "nobody")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_watchers_see_changes(live: Live) -> None:
    stub: Any = health_pb2_grpc.HealthStub(live.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=GATEWAY))
    assert (await watch.read()).status == NOT_SERVING
    async with live.node(behaviour=answers(7)):
        assert (await asyncio.wait_for(watch.read(), 5)).status == SERVING
    assert (await asyncio.wait_for(watch.read(), 5)).status == NOT_SERVING
    watch.cancel()


async def test_a_gateway_that_stops_says_so_before_it_goes(tmp_path: Path) -> None:
    gateway = build(_config(tmp_path, free_port()))
    async with contextlib.AsyncExitStack() as stack:
        address = await stack.enter_async_context(listening(gateway))
        channel = grpc.aio.insecure_channel(address)
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=FLEET))
        assert (await watch.read()).status == SERVING
        stopping = asyncio.ensure_future(stack.aclose())
        assert (await asyncio.wait_for(watch.read(), 5)).status == NOT_SERVING
        await stopping
        await channel.close(None)


# ---- reflection


async def ask_reflection(live: Live, request: reflection_pb2.ServerReflectionRequest) -> Any:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(live.channel)
    replies = [reply async for reply in stub.ServerReflectionInfo(iter([request]), timeout=5)]
    return replies[0]


async def test_reflection_lists_the_services_on_loopback(live: Live) -> None:
    reply = await ask_reflection(live, reflection_pb2.ServerReflectionRequest(list_services=""))
    names = {service.name for service in reply.list_services_response.service}
    assert {GATEWAY, ADMIN, FLEET} <= names


async def test_reflection_describes_a_service(live: Live) -> None:
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=GATEWAY)
    reply = await ask_reflection(live, request)
    assert any(b"InferRequest" in proto for proto in reply.file_descriptor_response.file_descriptor_proto)


# ---- HTTP


def _config(state_dir: Path, port: int) -> Any:
    return GatewayConfig(state_dir=state_dir, listen="127.0.0.1:0", http_listen=f"127.0.0.1:{port}")


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[tuple[Live, int]]:
    port = free_port()
    async with live_gateway(tmp_path, http_listen=f"127.0.0.1:{port}") as live:
        yield live, port


async def get(port: int, path: str, *, method: str = "GET") -> tuple[int, str, str]:
    """Status, content type and body."""
    async with asyncio.timeout(5):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
    headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:])
    assert "server" not in headers
    return int(head.split()[1]), headers.get("content-type", ""), body


async def test_alive_whatever_else(http: tuple[Live, int]) -> None:
    _, port = http
    for path in ("/healthz", "/health"):
        assert (await get(port, path))[0] == 200


async def test_ready_with_the_first_node_and_reasons_before(http: tuple[Live, int]) -> None:
    live, port = http
    status, kind, body = await get(port, "/readyz")
    assert (status, kind) == (503, "application/json")
    assert json.loads(body) == {"ready": False, "reasons": ["no node with an expert is connected"]}
    async with live.node(behaviour=answers(7)):
        assert json.loads((await get(port, "/readyz"))[2]) == {"ready": True, "reasons": []}
        live.gateway.service.admission.closed = True
        status, _, body = await get(port, "/readyz")
        assert (status, json.loads(body)["reasons"]) == (503, ["draining"])


async def test_version(http: tuple[Live, int]) -> None:
    assert json.loads((await get(http[1], "/version"))[2]) == {"version": __version__}


async def test_metrics_tell_what_happened(http: tuple[Live, int]) -> None:
    live, port = http
    async with live.node(arms=[FakeArm("small", energy_j=0.25)], behaviour=answers(7)):
        for _ in range(3):
            await infer(live, digit())
        with pytest.raises(grpc.aio.AioRpcError):
            await infer(live, digit(task="letters"))
        await until(lambda: live.gateway.service.metrics.totals()[0] == [("answered", 3)])
        status, kind, body = await get(port, "/metrics")
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    found = {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }
    assert found["edgewise_requests_total", "answered"] == 3
    assert found["edgewise_energy_joules_total", "small", "fake-1", "modelled", "active"] == pytest.approx(0.75)
    assert found["edgewise_node_up", "fake-1"] == 1
    assert found["edgewise_request_duration_seconds_count",] == 3
    assert found["edgewise_queue_depth",] == 0
    assert not [name for name, *_ in found if not name.startswith("edgewise_")]
    status, _, body = await get(port, "/metrics")
    assert 'edgewise_node_up{node="fake-1"} 0.0' in body


@pytest.mark.parametrize("path", ["/nope", "/metrics/../etc", "/v1", "/v3/models"])
async def test_what_is_not_there(http: tuple[Live, int], path: str) -> None:
    status, _, body = await get(http[1], path)
    assert (status, json.loads(body)["code"]) == (404, "path_not_found")
    assert path not in body


async def test_only_reading_is_allowed(http: tuple[Live, int]) -> None:
    assert (await get(http[1], "/healthz", method="POST"))[0] == 405


async def test_an_address_in_use_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(CannotListen, match="cannot listen"):
            async with live_gateway(tmp_path, listen=address):
                raise AssertionError("listens")
        with pytest.raises(CannotListen, match="cannot listen"):
            async with live_gateway(tmp_path, http_listen=address):
                raise AssertionError("listens")
