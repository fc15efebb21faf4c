"""Every gRPC method and HTTP route has a policy, and the policy is what happens."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from starlette.routing import Route

from edgewise.v1 import accounts_pb2, admin_pb2, fleet_pb2, gateway_pb2, identity_pb2, models_pb2
from orchestrator.config import Auth
from orchestrator.gateway.http import http_app
from orchestrator.gateway.policy import METHODS, ROUTES, Access, access_to
from orchestrator.ledger.keys import Role
from tests.fakes.live import Live, live_gateway
from tests.fakes.ports import free_port
from tests.orchestrator.gateway.calls import refused, untyped

OURS = (gateway_pb2, admin_pb2, accounts_pb2, fleet_pb2, identity_pb2, models_pb2)
FOREIGN = ("grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")
BAD_KEYS = ("Bearer ewk_00_AAAA", "Basic abc", "Bearer " + "x" * 4000, "' OR 1=1 --")


def methods() -> list[str]:
    """All methods of all services, from their descriptors."""
    services = [service for file in OURS for service in file.DESCRIPTOR.services_by_name.values()]
    services += [descriptor_pool.Default().FindServiceByName(name) for name in FOREIGN]
    return sorted(f"/{service.full_name}/{method.name}" for service in services for method in service.methods)


def streams_in(method: str) -> bool:
    service, _, name = method[1:].partition("/")
    found = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
    return bool(found.client_streaming)


# What the client of grpc.aio says where the reply came before its first message was sent; the reply itself is lost.
LOST = "Internal error from Core"


async def code(live: Live, method: str, authorization: str | None) -> grpc.StatusCode:
    """How the gateway ends a call of this method with no body worth the name."""
    metadata = () if authorization is None else (("authorization", authorization),)
    for _ in range(5):
        try:
            await _called(live, method, metadata)
        except grpc.aio.AioRpcError as error:
            if error.details() == LOST:
                continue
            return error.code()
        return grpc.StatusCode.OK
    raise AssertionError(f"{method}: the client's own error five times")


async def _called(live: Live, method: str, metadata: tuple[tuple[str, str], ...]) -> None:
    channel = untyped(live.channel)
    if streams_in(method):
        call = channel.stream_stream(method)(iter([b""]), timeout=2, metadata=metadata)
    else:
        call = channel.unary_stream(method)(b"", timeout=2, metadata=metadata)
    async for _ in call:
        break
    call.cancel()


async def test_every_method_has_a_policy(live: Live) -> None:
    assert set(methods()) == set(METHODS)


async def test_every_route_has_a_policy(live: Live) -> None:
    routes = [route.path for route in http_app(live.gateway.service).routes if isinstance(route, Route)]
    assert sorted(routes) == sorted(ROUTES)
    assert len(routes) == len(http_app(live.gateway.service).routes)


def test_only_these_are_public() -> None:
    """Whoever makes another one public says so here."""
    assert {name for name, access in {**METHODS, **ROUTES}.items() if access is Access.PUBLIC} == {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/List",
        "/grpc.health.v1.Health/Watch",
        "/healthz",
        "/health",
        "/v2/health/live",
        "/v2/health/ready",
        "/readyz",
        "/version",
        "/cacerts",
        "/v1/nodes/join",
    }


@pytest.fixture
async def locked(tmp_path: Path) -> AsyncIterator[Live]:
    async with live_gateway(tmp_path, auth=Auth(keys="required")) as live:
        yield live


async def key_for(live: Live, role: Role, tenant: str = "anne") -> str:
    """A key as an operator would make one; put straight into the ring, since nobody can call yet."""
    import os

    from orchestrator.ledger.keys import mint

    key, secret = mint(tenant, role, now_unix_s=0.0, expires_unix_s=None, random=os.urandom)
    live.gateway.keys.put(key)
    return f"Bearer {secret}"


@pytest.mark.parametrize("method", sorted(METHODS))
async def test_without_a_key_only_public_methods_answer(locked: Live, method: str) -> None:
    for shown in (None, *BAD_KEYS):
        told = await code(locked, method, shown)
        if METHODS[method] is Access.PUBLIC:
            assert told is not grpc.StatusCode.UNAUTHENTICATED
        else:
            assert told is grpc.StatusCode.UNAUTHENTICATED, (method, shown)


@pytest.mark.parametrize("role", list(Role))
async def test_a_key_opens_what_its_role_says_and_nothing_else(locked: Live, role: Role) -> None:
    shown = await key_for(locked, role)
    for method, access in METHODS.items():
        told = await code(locked, method, shown)
        denied = access is not Access.PUBLIC and role not in access.value
        assert (told is grpc.StatusCode.PERMISSION_DENIED) == denied, method
        assert told is not grpc.StatusCode.UNAUTHENTICATED, method


async def test_refusals_do_not_say_what_is_wrong(locked: Live) -> None:
    texts = set()
    for shown in (None, *BAD_KEYS):
        metadata = () if shown is None else (("authorization", shown),)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await untyped(locked.channel).unary_unary("/edgewise.v1.Admin/GetStatus")(b"", timeout=2, metadata=metadata)
        found = refused(caught.value)
        texts.add((found.reason, found.message))
    assert len(texts) == 1
    assert texts.pop()[0] == "CREDENTIAL_INVALID"


async def test_two_keys_are_none(locked: Live) -> None:
    shown = await key_for(locked, Role.ADMIN)
    metadata = (("authorization", shown), ("authorization", shown))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await untyped(locked.channel).unary_unary("/edgewise.v1.Admin/GetStatus")(b"", timeout=2, metadata=metadata)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_on_loopback_a_wrong_key_is_refused_all_the_same(live: Live) -> None:
    assert await code(live, "/edgewise.v1.Admin/GetStatus", None) is grpc.StatusCode.OK
    assert await code(live, "/edgewise.v1.Admin/GetStatus", BAD_KEYS[0]) is grpc.StatusCode.UNAUTHENTICATED


async def test_a_method_without_a_policy_is_refused_to_everybody(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.gateway import policy

    monkeypatch.setattr(policy, "METHODS", {})
    assert await code(live, "/edgewise.v1.Admin/GetStatus", None) is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_beyond_loopback_keys_are_required(tmp_path: Path, address: str) -> None:
    from orchestrator.config import GatewayConfig
    from orchestrator.gateway.app import build

    for field in ("listen", "http_listen"):
        fields: dict[str, Any] = {field: address, "allow_insecure_remote": True, "state_dir": tmp_path}
        assert build(GatewayConfig(**fields)).keys.required
    assert not build(GatewayConfig(state_dir=tmp_path)).keys.required


# ---- HTTP


def get(port: int, path: str, verb: str = "GET", key: str | None = None) -> tuple[int, str | None, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request(verb, path, headers={} if key is None else {"Authorization": key})
    reply = connection.getresponse()
    return reply.status, reply.getheader("www-authenticate"), reply.read()


@pytest.mark.parametrize("path", [*ROUTES, "/admin", "/metrics/", "/metrics/../healthz"])
@pytest.mark.parametrize("verb", ["GET", "POST", "DELETE", "PUT"])
async def test_routes_ask_for_a_key_whatever_the_verb(tmp_path: Path, path: str, verb: str) -> None:
    port = free_port()
    async with live_gateway(tmp_path, auth=Auth(keys="required"), http_listen=f"127.0.0.1:{port}") as live:
        for shown in (None, BAD_KEYS[0]):
            status, challenge, body = await asyncio.to_thread(get, port, path, verb, shown)
            if ROUTES.get(path) is Access.PUBLIC:
                assert status != 401
            else:
                assert status == 401
                assert (challenge or "").startswith("Basic realm=" if path == "/" else "Bearer")
                assert b"credential_invalid" in body
        client = await asyncio.to_thread(get, port, path, verb, await key_for(live, Role.CLIENT))
        access = access_to(path) or Access.ADMIN
        assert (client[0] == 403) == (access is not Access.PUBLIC and Role.CLIENT not in access.value)
        operator = await asyncio.to_thread(get, port, path, verb, await key_for(live, Role.ADMIN))
        assert operator[0] not in (401, 403)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8420", 200),
        ("127.0.0.1", 200),
        ("[::1]:8420", 200),
        ("192.168.1.5:8420", 200),
        ("evil.example", 403),
        ("localhost.evil.example:8420", 403),
        ("", 403),
    ],
)
async def test_without_keys_only_this_machines_names_are_answered(live: Live, host: str, status: int) -> None:
    """A page of a site whose name was bound to 127.0.0.1 anew must not reach the gateway."""
    from tests.orchestrator.door.raw import send

    for path in ("/v1/models", "/healthz", "/metrics"):
        assert (await send(live, "GET", path, {"host": host}, b"")).status == status


async def test_a_kept_connection_is_let_in_anew_for_every_request(locked: Live) -> None:
    """Its head comes again and is not read again: what the key is worth is asked for every time."""
    keys, shown = locked.gateway.keys, await key_for(locked, Role.CLIENT)
    (key,) = [key for key in keys.all() if key.tenant == "anne"]
    host, _, port = locked.http.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nauthorization: {shown}\r\ncontent-length: 2\r\n\r\n"

    async def status() -> int:
        writer.write(head.encode() + b"{}")
        told = (await reader.readuntil(b"\r\n\r\n")).decode()
        await reader.readexactly(int(told.partition("content-length: ")[2].partition("\r")[0]))
        return int(told.split()[1])

    known = 415  # Of a body that does not say what it is, once whoever sends it is let in.
    async with asyncio.timeout(10):
        assert [await status() for _ in range(3)] == [known] * 3
        keys.put(keys.revoked(key.key_id))
        assert [await status() for _ in range(2)] == [401] * 2
        keys.put(key)
        assert await status() == known
        keys.put(replace(key, role="node"))
        assert await status() == 403
        keys.put(replace(key, expires_unix_s=1.0))
        assert await status() == 401
    writer.close()
