"""The least that any gateway of this shape takes for a chat: its libraries and nothing of ours between them.

llhttp reads a request, `json` its body, it goes with whatever else waits as protobuf over a node's grpc.aio stream,
comes back, and `json` writes a reply as long as ours. No keys, budgets, routes, books, metrics or log; no bounds on
heads or time, and a client that leaves is not noticed. Loop, socket polling and messages are those of the gateway; the
node answers at once. Run as ``python -m tests.bench.http_relay gateway HTTP_PORT GRPC_PORT`` and ``… node GRPC_PORT``.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

from orchestrator.gateway.polling import poll_directly

poll_directly()

import grpc  # noqa: E402 (chooses how to wait when it is first imported)
import httptools  # noqa: E402
import uvloop  # noqa: E402

from edgewise.v1 import fleet_pb2  # noqa: E402

ANSWER = "Hello!"
METHOD = "Connect"
SERVICE = "edgewise.v1.Fleet"
_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"))
_ENERGY = dict.fromkeys(("energy_joules", "energy_kwh", "avg_power_watts", "attribution_ratio", "idle_joules"))
_ATTEMPT = {"arm": "mock:remote@bench", "stage": 0, "outcome": "answered", "reason": None, "joules": None}


def reply_of(text: str, number: int) -> dict[str, Any]:
    """A document of the shape and length of a chat's reply; figures differ from one to the next, as they do."""
    ms = 10.0 + number / 7.0
    attempt = {**_ATTEMPT, "predicted_joules": 0.0, "ms": ms, "predicted_ms": ms}
    return {
        "id": f"chatcmpl-{number:032x}",
        "object": "chat.completion",
        "created": 1_764_000_000,
        "model": "mock",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "logprobs": None,
                "message": {"role": "assistant", "content": text, "refusal": None},
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
        "energy": {**_ENERGY, "duration_seconds": ms / 1e3, "source": "unmeasured", "nodes": [{"node": "bench"}]},
        "routing": {
            "experts": ["mock@bench"],
            "fusion": "none",
            "predicted": {"joules": 0.0, "ms": ms},
            "bound": {"joules": None, "ms": ms * 2.0},
            "budget_met": True,
            "plan": "chat-3",
            "certificate": {"status": "optimal", "gap": 0.0, "explored": 7},
            "attempts": [attempt],
        },
    }


class Relay:
    """One node's stream and the chats that wait for it."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[str]] = {}
        self._out: list[fleet_pb2.NodeCommand] = []
        self._wake = asyncio.Event()

    async def chat(self, body: bytes) -> bytes:
        """Forward a chat, wait for its answer."""
        asked, number = json.loads(body), next(self._numbers)
        command = fleet_pb2.NodeCommand()
        command.work.work_id = number
        for message in asked["messages"]:
            command.work.text.messages.add(role=message["role"], content=message["content"])
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._out.append(command)
        self._wake.set()
        data = _ENCODER.encode(reply_of(await answer, number)).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        return head.encode() + data

    async def connect(self, requests: Any, context: Any) -> None:
        """The node's stream."""
        reader = asyncio.ensure_future(self._read(context))
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                commands, self._out = self._out, []
                await context.write(fleet_pb2.ToNode(commands=commands))
        finally:
            reader.cancel()

    async def _read(self, context: Any) -> None:
        while isinstance(message := await context.read(), fleet_pb2.FromNode):
            for event in message.events:
                self._waiting.pop(event.done.work_id).set_result(event.done.text)


class Connection(asyncio.Protocol):
    """One client: a request, its reply, the next one."""

    def __init__(self, relay: Relay) -> None:
        self._relay, self._body = relay, b""
        self._parser = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        self._task = asyncio.get_running_loop().create_task(self._answer(body))

    async def _answer(self, body: bytes) -> None:
        self._transport.write(await self._relay.chat(body))


async def serve(http_port: int, grpc_port: int) -> None:
    """Listen until the process is ended."""
    relay, server = Relay(), grpc.aio.server()
    kinds: dict[str, Any] = {
        "request_deserializer": fleet_pb2.FromNode.FromString,
        "response_serializer": fleet_pb2.ToNode.SerializeToString,
    }
    handler = grpc.stream_stream_rpc_method_handler(relay.connect, **kinds)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    server.add_insecure_port(f"127.0.0.1:{grpc_port}")
    await server.start()
    await asyncio.get_running_loop().create_server(lambda: Connection(relay), "127.0.0.1", http_port)
    await asyncio.Event().wait()


async def work(grpc_port: int) -> None:
    """Dial out and answer everything at once, until the process is ended."""
    answers: asyncio.Queue[fleet_pb2.FromNode] = asyncio.Queue()

    async def each() -> AsyncIterator[fleet_pb2.FromNode]:
        while True:
            yield await answers.get()

    async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        await channel.channel_ready()
        kinds: dict[str, Any] = {
            "request_serializer": fleet_pb2.FromNode.SerializeToString,
            "response_deserializer": fleet_pb2.ToNode.FromString,
        }
        connect = channel.stream_stream(f"/{SERVICE}/{METHOD}", **kinds)
        async for message in connect(each()):
            done = [fleet_pb2.WorkDone(work_id=command.work.work_id, text=ANSWER) for command in message.commands]
            answers.put_nowait(fleet_pb2.FromNode(events=[fleet_pb2.NodeEvent(done=one) for one in done]))


if __name__ == "__main__":
    ports = [int(port) for port in sys.argv[2:]]
    uvloop.run(serve(*ports) if sys.argv[1] == "gateway" else work(*ports))
