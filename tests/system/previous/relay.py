"""Stands between an agent and its gateway and changes every message on its way, in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from tests.fakes.node import OPTIONS
from tests.system.previous.wire import Change

METHOD = "/edgewise.v1.Fleet/Connect"


class Relay:
    """Messages of streams to one gateway.

    Args:
        gateway: Its address.
        up: Changes what nodes say.
        down: Changes what the gateway says.
    """

    def __init__(self, gateway: str, up: Change, down: Change) -> None:
        self._gateway = gateway
        self._up = up
        self._down = down
        # Who said it ("node" or "gateway"), and the bytes as they arrived.
        self.heard: list[tuple[str, bytes]] = []
        self.changed = 0

    def _note(self, who: str, before: bytes, after: bytes) -> bytes:
        self.heard.append((who, before))
        self.changed += before != after
        return after

    async def connect(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """One stream, until either side ends it."""
        async with grpc.aio.insecure_channel(self._gateway, options=OPTIONS) as channel:
            untyped: Any = channel
            call = untyped.stream_stream(METHOD)()

            async def send() -> None:
                async for data in requests:
                    await call.write(self._note("node", data, self._up(data)))
                await call.done_writing()

            sending = asyncio.create_task(send())
            try:
                async for data in call:
                    yield self._note("gateway", data, self._down(data))
            finally:
                sending.cancel()
                call.cancel()


@asynccontextmanager
async def relaying(gateway: str, changes: tuple[Change, Change]) -> AsyncIterator[tuple[str, Relay]]:
    """A relay that listens; yields its address and itself."""
    relay, server = Relay(gateway, *changes), grpc.aio.server()
    handlers = {"Connect": grpc.stream_stream_rpc_method_handler(relay.connect)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("edgewise.v1.Fleet", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", relay
    finally:
        await server.stop(grace=0)
