"""The least that any gateway of this shape adds: a relay that forwards bytes and decides nothing.

Client -> unary call -> relay -> the node's own outbound stream -> the same engine child, and back: two hops of
grpc.aio, as Edgewise has them, without budgets, routing, books or checks. The relay waits for its sockets as the
gateway does. Run as ``python -m tests.bench.gateway_relay gateway`` (prints its port) and ``… node PORT``.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

from orchestrator.gateway.polling import poll_directly

poll_directly()

import grpc  # noqa: E402 (chooses how to wait when it is first imported)
import uvloop  # noqa: E402

from edgewise.v1 import gateway_pb2  # noqa: E402
from tests.bench.gateway_peers import Infer, bare_engine, engine_call  # noqa: E402

ID_BYTES = 8


class Relay:
    """One node's stream and the calls that wait for it; messages are a number and the bytes."""

    def __init__(self) -> None:
        self.joined = asyncio.Event()
        self._numbers = itertools.count(1)
        self._waiting: dict[bytes, asyncio.Future[bytes]] = {}
        self._out: asyncio.Queue[bytes] = asyncio.Queue()

    async def infer(self, request: bytes, context: Any) -> bytes:
        """Forward a request, wait for its answer."""
        number = next(self._numbers).to_bytes(ID_BYTES, "big")
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._out.put_nowait(number + request)
        return await answer

    async def connect(self, messages: AsyncIterator[bytes], context: Any) -> None:
        """The node's stream."""
        reader = asyncio.ensure_future(self._read(messages))
        self.joined.set()
        try:
            while True:
                await context.write(await self._out.get())
        finally:
            reader.cancel()

    async def _read(self, messages: AsyncIterator[bytes]) -> None:
        async for message in messages:
            self._waiting.pop(message[:ID_BYTES]).set_result(message[ID_BYTES:])


async def serve() -> None:
    """Listen on a free port, say which, serve until SIGTERM."""
    relay, server = Relay(), grpc.aio.server()
    handlers = {
        "Infer": grpc.unary_unary_rpc_method_handler(relay.infer),
        "Connect": grpc.stream_stream_rpc_method_handler(relay.connect),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("edgewise.v1.Gateway", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await relay.joined.wait()
    print("joined", flush=True)
    await _terminated()
    await server.stop(0)


async def work(port: int) -> None:
    """Dial out, answer what comes, until SIGTERM."""
    engine, arm = await bare_engine()
    answers: asyncio.Queue[bytes] = asyncio.Queue()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        connect: Any = channel.stream_stream("/edgewise.v1.Gateway/Connect", None, None)
        working = asyncio.ensure_future(_answer(connect(_each(answers)), engine_call(engine, arm), answers))
        await _terminated()
        working.cancel()
    await engine.close()


async def _each(answers: asyncio.Queue[bytes]) -> AsyncIterator[bytes]:
    while True:
        yield await answers.get()


async def _answer(requests: AsyncIterator[bytes], infer: Infer, answers: asyncio.Queue[bytes]) -> None:
    async def one(message: bytes) -> None:
        reply = await infer(gateway_pb2.InferRequest.FromString(message[ID_BYTES:]), None)
        answers.put_nowait(message[:ID_BYTES] + reply.SerializeToString())

    async with asyncio.TaskGroup() as running:
        async for message in requests:
            running.create_task(one(message))


async def _terminated() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


if __name__ == "__main__":
    uvloop.run(serve() if sys.argv[1] == "gateway" else work(int(sys.argv[2])))
