"""The HTTP server itself: what is no proper HTTP, what comes slowly, what comes at once, and clients that leave."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from orchestrator.door import server as module
from orchestrator.door.server import HttpServer, over_asgi

LEFT: list[str] = []


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Says how long the body was; `/wait` waits for its client to leave, `/bug` fails, `/parts` sends three parts."""
    if scope["path"] == "/bug":
        raise ValueError("secret")
    if scope["path"] == "/wait":
        await receive()
        while (await receive())["type"] != "http.disconnect":
            pass
        LEFT.append(scope["query_string"].decode())
        return
    size = 0
    while True:
        message = await receive()
        size += len(message["body"])
        if not message["more_body"]:
            break
    parts = [b"a", b"b", b"c"] if scope["path"] == "/parts" else [f"{size} {scope['path']}".encode()]
    headers = [] if len(parts) > 1 else [(b"content-length", str(len(parts[0])).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for number, part in enumerate(parts, start=1):
        await send({"type": "http.response.body", "body": part, "more_body": number < len(parts)})


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[HttpServer, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = HttpServer(app, listener)
    await server.start()
    try:
        yield server, listener.getsockname()[1]
    finally:
        await server.close()


async def exchange(*parts: bytes) -> bytes:
    """What comes back until the server closes, or nothing more does."""
    async with serving() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()
        return answer


CLOSE = b"connection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ((b"hello\r\n\r\n",), b"400"),
        ((b"\x16\x03\x01\x02\x00\x01",), b"400"),
        ((b"GET / HTTP/9.9\r\n\r\n",), b"400"),
        ((b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",), b"400"),
        ((b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",), b"400"),
        ((b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",), b"400"),
        ((b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",), b"400"),
        ((b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 20_000 + b"\r\n\r\n",), b"431"),
        ((b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",), b"431"),
        ((b"GET / HTTP/1.1\r\nhost: x\r\n" + b"x: y\r\n" * 10_000 + b"\r\n",), b"431"),
        ((b"GET / HTTP/1.1\r\nhost: x\r\n", *[b"x: y\r\n"] * 101, b"\r\n"), b"431"),
        ((b"GET / HTTP/1.1\r\n" + CLOSE,), b"400"),
        ((b"GET / HTTP/1.1\r\nhost: x\r\nhost: x\r\n" + CLOSE,), b"400"),
        ((b"GET / HTTP/1.0\r\nhost: x\r\nHost: y\r\n\r\n",), b"400"),
        ((b"GET /bug HTTP/1.1\r\nhost: x\r\n" + CLOSE,), b"500"),
    ],
)
async def test_what_is_refused(parts: tuple[bytes, ...], status: bytes) -> None:
    answer = await exchange(*parts)
    assert answer.startswith(b"HTTP/1.1 " + status), answer[:80]
    assert b"secret" not in answer


async def test_what_turns_out_to_be_no_http_while_it_waits_for_company_is_refused() -> None:
    async with serving() as (server, port):
        # Another one is under way, so that the next waits a few turns of the loop before it begins.
        _, busy = await asyncio.open_connection("127.0.0.1", port)
        busy.write(b"GET /wait?busy HTTP/1.1\r\nhost: x\r\n\r\n")
        while not server.answering:  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.001)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /bug HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n")
        async with asyncio.timeout(5):
            assert (await reader.read()).startswith(b"HTTP/1.1 400")
        assert server.answering == 1
        for one in (busy, writer):
            one.close()


async def test_a_body_in_any_form() -> None:
    plain = await exchange(b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n" + CLOSE + b"hel", b"lo")
    assert plain.endswith(b"\r\n\r\n5 /a")
    chunked = b"POST /a%20b?q HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n" + CLOSE
    assert (await exchange(chunked, b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n")).endswith(b"5 /a b")
    large = b"x" * 1_000_000
    told = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n" + CLOSE
    assert (await exchange(told, large)).endswith(b"1000000 /")


@pytest.mark.parametrize(
    "reads",
    [
        (b"content-length: 40000\r\n\r\n" + b"x" * 100, b"x" * 20_000, b"x" * 19_900),
        (b"content-length: 40000\r\n\r\n", b"x" * 20_000, b"x" * 20_000),
        (b"transfer-encoding: chunked\r\n\r\n", *[b"7530\r\n" + b"x" * 30_000 + b"\r\n"] * 4, b"0\r\nx: y\r\n\r\n"),
    ],
)
async def test_a_body_in_many_reads_is_no_head(reads: tuple[bytes, ...]) -> None:
    async with serving() as (server, port), asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"0 /")
        (connection,) = server.connections
        for data in (b"POST /large HTTP/1.1\r\nhost: x\r\n" + reads[0], *reads[1:]):
            connection.data_received(data)
        assert b"close" not in await reader.readuntil(b" /large")
        writer.close()


@pytest.mark.parametrize("endless", [b"0\r\nx: ", b"1;x="])
async def test_what_stands_around_a_body_is_bounded_as_a_head_is(endless: bytes) -> None:
    async with serving() as (server, port), asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n" + endless)
        while not server.answering:  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.001)
        writer.write(b"a" * 20_000)
        assert (await reader.read()).startswith(b"HTTP/1.1 431")
        writer.close()


async def test_what_stands_behind_a_body_is_no_header() -> None:
    seen: list[Any] = []

    async def looks(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(name for name, _ in scope["headers"])
        await app(scope, receive, send)

    async with serving() as (server, port), asyncio.timeout(5):
        server.answer = over_asgi(looks)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head + b"1\r\na\r\n0\r\nauthorization: me\r\n\r\n")
        await reader.readuntil(b"1 /")
        writer.close()
    assert seen == [b"host", b"transfer-encoding"]


async def test_one_connection_serves_many_requests_in_order() -> None:
    one = b"GET /%d HTTP/1.1\r\nhost: x\r\n\r\n"
    answer = await exchange(b"".join(one % n for n in range(20)) + b"GET /last HTTP/1.1\r\nhost: x\r\n" + CLOSE)
    said = [reply.rsplit(b" ", 1)[1] for reply in answer.split(b"HTTP/1.1 200 OK")[1:]]
    assert said == [*(b"/%d" % n for n in range(20)), b"/last"]


async def test_parts_are_chunked_and_old_clients_get_them_plain() -> None:
    assert b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n" in await exchange(b"GET /parts HTTP/1.1\r\nhost: x\r\n" + CLOSE)
    assert (await exchange(b"GET /parts HTTP/1.0\r\n\r\n")).endswith(b"\r\n\r\nabc")
    assert (await exchange(b"HEAD /parts HTTP/1.1\r\nhost: x\r\n" + CLOSE)).endswith(b"\r\n\r\n")


async def test_an_old_client_that_wants_its_connection_kept_is_told_so() -> None:
    kept = b"GET /%b HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"
    first, second, rest = (await exchange(kept % b"a" + kept % b"b" + b"GET /c HTTP/1.0\r\n\r\n")).split(
        b"HTTP/1.1 200 OK"
    )[1:]
    assert b"connection: keep-alive\r\n" in first
    assert b"connection: keep-alive\r\n" in second
    assert b"connection: close\r\n" in rest
    # Without a length only the end of the connection says where the body ends; one of HTTP/1.1 is told nothing.
    parts = await exchange(kept % b"parts")
    assert b"connection: close\r\n" in parts
    assert parts.endswith(b"\r\n\r\nabc")
    new = b"GET / HTTP/1.1\r\nhost: x\r\n"
    assert b"keep-alive" not in await exchange(new + b"\r\n" + new + CLOSE)


async def test_a_client_that_waits_to_be_asked_for_its_body() -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n" + CLOSE
    async with serving() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        async with asyncio.timeout(5):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"hi")
            assert (await reader.read()).endswith(b"2 /")
        writer.close()


async def test_what_does_not_come_to_an_end_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEAD_S", 0.1)
    monkeypatch.setattr(module, "IDLE_S", 0.1)
    assert await exchange() == b""
    assert await exchange(b"GET / HTTP/1.1\r\nhost: x\r\nx: ") == b""
    assert (await exchange(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")).endswith(b"0 /")


async def test_a_kept_connection_that_is_used_stays_and_an_idle_one_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.8)
    async with serving() as (_, port), asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        # All of them together take longer than an idle connection is kept.
        for _ in range(4):
            await asyncio.sleep(0.3)
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.readuntil(b"0 /")).startswith(b"HTTP/1.1 200")
        began_s = asyncio.get_running_loop().time()
        assert await reader.read() == b""
        assert asyncio.get_running_loop().time() - began_s >= 0.5
        writer.close()


async def test_a_client_that_leaves_is_told_at_once() -> None:
    LEFT.clear()
    async with serving() as (server, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /wait?me HTTP/1.1\r\nhost: x\r\n\r\n")
        while not any(connection.task for connection in server.connections):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        writer.close()
        async with asyncio.timeout(1):
            while not LEFT:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
    assert LEFT == ["me"]


async def test_what_waits_for_its_turn_is_not_begun_for_a_client_that_has_left() -> None:
    asked: list[str] = []
    go = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])
        await go.wait()
        await app(scope, receive, send)

    async with serving() as (server, port), asyncio.timeout(5):
        server.answer = over_asgi(slow)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"".join([b"GET /%d HTTP/1.1\r\nhost: x\r\n\r\n" % number for number in range(3)]))
        while not asked:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        writer.close()
        while server.connections:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        go.set()
        while server.answering:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
    assert asked == ["/0"]


async def test_closing_ends_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_S", 0.1)
    async with serving() as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /wait?end HTTP/1.1\r\nhost: x\r\n\r\n")
        while not any(connection.task for connection in server.connections):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        async with asyncio.timeout(2):
            await server.close()
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()
