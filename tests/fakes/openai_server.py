"""A small OpenAI-compatible server: real sockets, answers that a test chooses; `python -m` serves it for benchmarks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]


@dataclass
class Script:
    """What the server does.

    Args:
        pieces: The answer, by the request's body.
        models: What it says that it has.
        token_s: Seconds before each piece.
        prompt_s_per_token: Seconds of reading a prompt, by its tokens (words).
        status: Of every chat.
        break_after: Pieces after which it breaks the connection off; None for never.
        hang_after: Pieces after which it says nothing more.
        margin: Probability of each token minus the second's, told where logprobs are asked for.
        tool_calls: Parts of calls that it streams instead of text.
        usage: Whether it counts tokens.
        cached: Tokens of every prompt that it says it had kept; None says nothing.
        key: The key that it wants.
        embeddings: What it says to a request for embeddings, by the request's body.
    """

    pieces: Callable[[Body], list[str]] = field(default=lambda _body: ["Hel", "lo", "!"])
    models: tuple[str, ...] = ("tiny:1b",)
    token_s: float = 0.0
    prompt_s_per_token: float = 0.0
    status: int = 200
    break_after: int | None = None
    hang_after: int | None = None
    margin: float = 0.8
    tool_calls: list[Any] | None = None
    usage: bool = True
    cached: Any = None
    key: str | None = None
    embeddings: Callable[[Body], Any] = field(default=lambda body: embedded(body))


def embedded(body: Body) -> Body:
    """A vector for each text: its length and its number."""
    data = [{"index": n, "embedding": [float(len(text)), float(n)]} for n, text in enumerate(body["input"])]
    # Servers may list them in any order.
    return {"data": data[::-1], "usage": {"prompt_tokens": sum(len(text.split()) for text in body["input"])}}


class FakeOpenAI:
    """The server.

    Args:
        script: What it does; may be changed while it serves.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[Body] = []
        self.gone = asyncio.Event()
        self.gone_s = 0.0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while (request := await _read(reader)) is not None:
                path, headers, data = request
                if self.script.key and headers.get("authorization") != f"Bearer {self.script.key}":
                    await _reply(writer, 401, {"error": {"message": "who are you"}})
                elif path.endswith("/models"):
                    listed = [{"id": name, "object": "model"} for name in self.script.models]
                    await _reply(writer, 200, {"object": "list", "data": listed})
                elif path.endswith("/embeddings"):
                    body = json.loads(data)
                    self.asked.append(body)
                    await _reply(writer, self.script.status, self.script.embeddings(body))
                else:
                    await self._chat(json.loads(data), reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self._note_gone()
        finally:
            writer.close()

    def _note_gone(self) -> None:
        self.gone_s = time.monotonic()
        self.gone.set()

    async def _chat(self, body: Body, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self.script
        self.asked.append(body)
        if script.status != 200:
            await _reply(writer, script.status, {"error": {"message": "no"}})
            return
        pieces = [] if script.tool_calls else script.pieces(body)
        most = body.get("max_tokens", 1 << 30)
        finish = "length" if len(pieces) > most else "tool_calls" if script.tool_calls else "stop"
        pieces = pieces[:most]
        prompt = sum(len(str(message["content"]).split()) for message in body["messages"])
        usage: Body = {"prompt_tokens": prompt, "completion_tokens": len(pieces), "total_tokens": prompt + len(pieces)}
        if script.cached is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": script.cached}
        await asyncio.sleep(prompt * script.prompt_s_per_token)
        if not body.get("stream"):
            if script.hang_after is not None:
                await reader.read(1)
                raise ConnectionError
            await asyncio.sleep(script.token_s * len(pieces))
            message: dict[str, Any] = {"role": "assistant", "content": "".join(pieces)}
            if script.tool_calls:
                message["tool_calls"] = script.tool_calls
            choices: list[dict[str, Any]] = [{"index": 0, "message": message, "finish_reason": finish}]
            if body.get("logprobs"):
                choices[0]["logprobs"] = {"content": [_logprobs(piece, script.margin) for piece in pieces]}
            await _reply(writer, 200, {**_head(body, "chat.completion"), "choices": choices, "usage": usage})
            return
        watching = asyncio.ensure_future(reader.read(1))
        watching.add_done_callback(lambda done: None if done.cancelled() or done.exception() else self._note_gone())
        try:
            await self._stream(body, pieces, writer, finish=finish, usage=usage if script.usage else None)
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await watching

    async def _stream(
        self, body: Body, pieces: list[str], writer: asyncio.StreamWriter, *, finish: str, usage: Any
    ) -> None:
        script = self.script
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        head = _head(body, "chat.completion.chunk")
        for call in script.tool_calls or []:
            await _event(writer, {**head, "choices": [{"index": 0, "delta": {"tool_calls": [call]}}]})
        for number, piece in enumerate(pieces):
            if script.break_after == number:
                writer.transport.abort()
                raise ConnectionError
            if script.hang_after == number:
                await self.gone.wait()
                raise ConnectionError
            if script.token_s:
                await asyncio.sleep(script.token_s)
            choice: dict[str, Any] = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
            if body.get("logprobs"):
                choice["logprobs"] = {"content": [_logprobs(piece, script.margin)]}
            await _event(writer, {**head, "choices": [choice]})
        await _event(writer, {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        if usage and (body.get("stream_options") or {}).get("include_usage"):
            await _event(writer, {**head, "choices": [], "usage": usage})
        _chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def _head(body: Body, kind: str) -> dict[str, Any]:
    return {"id": "x", "object": kind, "created": 1, "model": body.get("model", "")}


def _logprobs(piece: str, margin: float) -> dict[str, Any]:
    first = (1.0 + margin) / 2.0
    tops = [
        {"token": piece, "logprob": math.log(first)},
        {"token": "?", "logprob": math.log(max(1e-9, first - margin))},
    ]
    return {"token": piece, "logprob": math.log(first), "top_logprobs": tops}


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


async def _event(writer: asyncio.StreamWriter, event: Any) -> None:
    _chunk(writer, b"data: " + json.dumps(event).encode() + b"\n\n")
    await writer.drain()


async def _read(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes] | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode().strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        return first.split()[1], headers, await _read_chunks(reader)
    return first.split()[1], headers, await reader.readexactly(int(headers.get("content-length", 0)))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return b"".join(parts)


async def _reply(writer: asyncio.StreamWriter, status: int, body: Any) -> None:
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    await writer.drain()


@asynccontextmanager
async def openai_server(script: Script | None = None, *, port: int = 0) -> AsyncIterator[FakeOpenAI]:
    """A server on a port of this machine; it ends with the block."""
    fake = FakeOpenAI(script or Script())
    serving: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not a coroutine: asyncio would complain of those that are cancelled at the end.
        task = asyncio.ensure_future(fake.serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", port)
    fake.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield fake
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def _main(port: int) -> None:
    async with openai_server(Script(models=("mock",)), port=port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
