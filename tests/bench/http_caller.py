"""Callers of the HTTP benchmark, each kind in a process of its own; stands alone, for peers' interpreters.

``python http_caller.py http HOST:PORT MODEL`` calls an OpenAI-compatible server over kept connections with next to
no client; ``python http_caller.py tensorzero CONFIG MODEL`` has TensorZero's embedded gateway in the process. A line
``CALLERS CALLS`` on stdin runs so many calls and answers with a line of JSON: CPU seconds, and milliseconds per call.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

TEXT = "What is twelve plus nineteen?"
WANTED = "Hello!"

Call = Callable[[], Awaitable[str]]


def cpu_s() -> float:
    """CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Connection:
    """One kept connection."""

    def __init__(self, address: str, model: str) -> None:
        self._host, _, port = address.partition(":")
        self._port = int(port)
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": TEXT}]}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n"
        self._request = f"{head}authorization: Bearer sk-none\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __call__(self) -> str:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        if "transfer-encoding: chunked" in head:
            parts = []
            while size := int(await reader.readuntil(b"\r\n"), 16):
                parts.append(await reader.readexactly(size))
                await reader.readexactly(2)
            await reader.readexactly(2)
            data = b"".join(parts)
        else:
            length = head.partition("content-length: ")[2].partition("\r\n")[0]
            data = await reader.readexactly(int(length))
        return str(json.loads(data)["choices"][0]["message"]["content"])


async def tensorzero(config: str, model: str) -> Call:
    """A call of the embedded gateway."""
    from tensorzero import AsyncTensorZeroGateway  # type: ignore[import-not-found]

    client = await AsyncTensorZeroGateway.build_embedded(config_file=config)

    async def call() -> str:
        given = {"messages": [{"role": "user", "content": TEXT}]}
        reply: Any = await client.inference(model_name=model, input=given)
        return str(reply.content[0].text)

    return call


async def block(calls: list[Call], each: int) -> dict[str, Any]:
    """Every caller calls so often; all at once."""
    times_ms: list[float] = []

    async def caller(call: Call) -> None:
        for _ in range(each):
            started_s = time.perf_counter()
            answer = await call()
            times_ms.append((time.perf_counter() - started_s) * 1e3)
            if answer != WANTED:
                raise SystemExit(f"a wrong answer: {answer!r}")

    before_s = cpu_s()
    await asyncio.gather(*(caller(call) for call in calls))
    return {"cpu_s": cpu_s() - before_s, "times_ms": times_ms}


async def main(kind: str, target: str, model: str) -> None:
    """Serve blocks until stdin ends."""
    embedded = await tensorzero(target, model) if kind == "tensorzero" else None
    calls: list[Call] = []
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        callers, each = map(int, line.split())
        while len(calls) < callers:
            calls.append(Connection(target, model) if embedded is None else embedded)
        print(json.dumps(await block(calls[:callers], each)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
