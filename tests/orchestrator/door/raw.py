"""Requests as bytes, for what no well-behaved client sends."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from tests.fakes.live import Live

TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Answer:
    """A reply."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def post(live: Live, path: str, body: bytes | dict[str, Any], **headers: str) -> Answer:
    """Post JSON, or bytes that pretend to be."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    told = {"content-type": "application/json", "content-length": str(len(data))}
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    return await send(live, "POST", path, told, data)


async def get(live: Live, path: str) -> Answer:
    """Get a path."""
    return await send(live, "GET", path, {}, b"")


async def send(live: Live, verb: str, path: str, headers: dict[str, str], data: bytes) -> Answer:
    """Send a request and read the reply until its end."""
    host, _, port = live.http.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = "".join(f"{name}: {value}\r\n" for name, value in {"host": host, "connection": "close", **headers}.items())
    writer.write(f"{verb} {path} HTTP/1.1\r\n{head}\r\n".encode() + data)
    async with asyncio.timeout(TIMEOUT_S):
        raw = await reader.read()
    writer.close()
    first, _, body = raw.partition(b"\r\n\r\n")
    status, *lines = first.decode().split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    fields = {name.lower(): value for name, value in pairs}
    return Answer(int(status.split()[1]), fields, body)
