"""Kept connections to a server: silence breaks whoever reads, and only silence does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from nodes.engines.remote import wire
from nodes.engines.remote.wire import ConnectionBroken, Host

SILENCE_S = 0.2
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Host]:
    """A server that answers every request on kept connections."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            await answer(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host = Host(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
    try:
        yield host
    finally:
        host.close()
        server.close()


async def ask(host: Host) -> bytes:
    async with host.request("GET", "models", {}) as reply:
        return await reply.body()


@pytest.mark.parametrize("said", [b"", HEAD, HEAD + b"ab"], ids=["nothing", "a head", "half a body"])
async def test_silence_breaks_whoever_reads(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(wire, "SILENCE_S", SILENCE_S)

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(said)

    async with serving(answer) as host, asyncio.timeout(5):
        with pytest.raises(ConnectionBroken, match="says nothing"):
            await ask(host)


async def test_a_slow_reply_and_a_kept_connection_are_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "SILENCE_S", SILENCE_S)

    async def answer(writer: asyncio.StreamWriter) -> None:
        for part in (HEAD, b"te", b"xt"):
            await asyncio.sleep(0.6 * SILENCE_S)
            writer.write(part)

    # Each part comes before the silence is too long, all of them long after the timer was set; then nothing is asked
    # for, which is no silence either.
    async with serving(answer) as host, asyncio.timeout(10):
        assert await ask(host) == b"text"
        await asyncio.sleep(1.5 * SILENCE_S)
        assert await ask(host) == b"text"
