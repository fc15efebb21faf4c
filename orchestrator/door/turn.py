"""One request and its reply, as ASGI has them, on a connection of `orchestrator.door.server`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Protocol

from orchestrator.door.exchange import TURN

# Bytes of a body that lie unread.
HIGH_WATER = 262_144
REASONS = {status.value: status.phrase for status in HTTPStatus} | {413: "Content Too Large"}
DISCONNECT = {"type": "http.disconnect"}


class Link(Protocol):
    """What a turn needs of its connection."""

    @property
    def ending(self) -> bool:
        """Whether the connection ends after what is under way."""
        ...

    async def write(self, data: bytes) -> None:
        """Send; waits while the client does not take what was sent before."""
        ...

    def hold(self, held: bool) -> None:
        """Stop reading, or go on."""
        ...

    def cancel(self) -> None:
        """Cancel whoever answers."""
        ...


class Turn:
    """One request and its reply.

    Args:
        connection: Where it came from.
        scope: See ASGI.
        keeps: Whether its client wants the connection kept.
        expects: Whether its client waits to be told to go on before it sends the body.
    """

    def __init__(self, connection: Link, scope: dict[str, Any], *, keeps: bool, expects: bool = False) -> None:
        self.scope = scope
        self.keeps = keeps
        self.received = self.started = self.finished = False
        self.head = b""
        self._connection = connection
        self._body: deque[bytes] = deque()
        self._lying = 0
        self._held = self._gone = self._told = self._attended = False
        self.cancelled = False
        self._waiting: asyncio.Future[None] | None = None
        scope[TURN] = self
        self._continue = expects
        self._chunked = False

    # ---- what comes

    def take(self, body: bytes) -> None:
        """A part of the body came."""
        self._body.append(body)
        self._lying += len(body)
        if self._lying > HIGH_WATER and not self._held:
            self._held = True
            self._connection.hold(True)
        self._wake()

    def complete(self) -> None:
        """The body is here."""
        self.received = True
        self._wake()

    def gone(self) -> None:
        """The client is gone."""
        self._gone = True
        self._wake()
        if self._attended:
            self._cancel()

    def attend(self, on: bool) -> None:
        """While `on`, whoever answers is cancelled when the client leaves: once, and at once where it has left."""
        self._attended = on
        if on and self._gone:
            self._cancel()

    def _cancel(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            self._connection.cancel()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def whole(self) -> bytes | None:
        """The body, where all of it is here in one piece; None where it must be received. Asked before `receive`."""
        if not self.received or self._told or self._gone or self._continue or len(self._body) > 1:
            return None
        body: bytes = self._part()["body"]
        return body

    async def receive(self) -> dict[str, Any]:
        """See ASGI."""
        if self._continue and not self.started:
            self._continue = False
            await self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while True:
            if self._body or (self.received and not self._told):
                return self._part()
            if self._gone or self.finished:
                return DISCONNECT
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting

    def _part(self) -> dict[str, Any]:
        body = self._body.popleft() if self._body else b""
        self._lying -= len(body)
        if self._held and self._lying <= HIGH_WATER:
            self._held = False
            self._connection.hold(False)
        self._told = self.received and not self._body
        return {"type": "http.request", "body": body, "more_body": not self._told}

    # ---- what goes

    async def send(self, message: dict[str, Any]) -> None:
        """See ASGI. The head waits for the first part of the body, so that a short reply is one write."""
        if message["type"] == "http.response.start":
            fields = [(name.lower(), value) for name, value in message.get("headers", ())]
            sized = any(name == b"content-length" for name, _ in fields)
            lines = [name + b": " + value.replace(b"\r", b" ").replace(b"\n", b" ") for name, value in fields]
            self.head = self._make_head(message["status"], lines, sized=sized)
            return
        more, body = message.get("more_body", False), message.get("body", b"")
        if self._chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        await self._write(body, more=more)

    async def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """A whole reply at once; the length of its body is told here."""
        lines = [f"{name}: {value}" for name, value in headers.items()]
        lines.append(f"content-length: {len(body)}")
        told = "\r\n".join(lines)
        if told.count("\r") != len(lines) - 1 or told.count("\n") != len(lines) - 1:
            told = "\r\n".join([line.replace("\r", " ").replace("\n", " ") for line in lines])
        self.head = self._make_head(status, [told.encode("latin-1", "replace")], sized=True)
        await self._write(body, more=False)

    async def _write(self, body: bytes, *, more: bool) -> None:
        data, self.head = self.head + (b"" if self.scope["method"] == "HEAD" else body), b""
        self.started = True
        self.finished = not more
        if self._gone:
            return
        await self._connection.write(data)
        if self.finished:
            self._wake()

    def _make_head(self, status: int, lines: list[bytes], *, sized: bool) -> bytes:
        self._chunked = not sized and self.scope["http_version"] == "1.1" and self.scope["method"] != "HEAD"
        told = [b"HTTP/1.1 %d %b" % (status, REASONS.get(status, "Status").encode()), *lines]
        if self._chunked:
            told.append(b"transfer-encoding: chunked")
        elif not sized and self.scope["method"] != "HEAD":
            # Only the end of the connection tells an old client where such a body ends.
            self.keeps = False
        if self._connection.ending or not self.keeps or not self.received:
            told.append(b"connection: close")
        elif self.scope["http_version"] == "1.0":
            # Such a client takes it for closed unless it is told.
            told.append(b"connection: keep-alive")
        return b"\r\n".join(told) + b"\r\n\r\n"
