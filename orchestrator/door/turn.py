"""One request and its reply, as ASGI has them, on a connection of `orchestrator.door.server`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from orchestrator.door.exchange import ON_GONE

# Bytes of a body that lie unread.
HIGH_WATER = 262_144
REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
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


class Turn:
    """One request and its reply.

    Args:
        connection: Where it came from.
        scope: See ASGI.
        keeps: Whether its client wants the connection kept.
    """

    def __init__(self, connection: Link, scope: dict[str, Any], *, keeps: bool) -> None:
        self.scope = scope
        self.keeps = keeps
        self.received = self.started = self.finished = False
        self.head = b""
        self._connection = connection
        self._body: deque[bytes] = deque()
        self._lying = 0
        self._held = self._gone = self._told = False
        self._on_gone: Callable[[], None] | None = None
        self._waiting: asyncio.Future[None] | None = None
        scope[ON_GONE] = self.tell
        self._continue = any(name == b"expect" for name, _ in scope["headers"])
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
        if self._on_gone is not None:
            self._on_gone()

    def tell(self, on_gone: Callable[[], None] | None) -> None:
        """Call this when the client leaves, or nothing any more."""
        self._on_gone = on_gone
        if on_gone is not None and self._gone:
            on_gone()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

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
            self.head = self._make_head(message["status"], message.get("headers", ()))
            return
        more, body = message.get("more_body", False), message.get("body", b"")
        if self.scope["method"] == "HEAD":
            body = b""
        elif self._chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        data, self.head = self.head + body, b""
        self.started = True
        self.finished = not more
        if self._gone:
            return
        await self._connection.write(data)
        if self.finished:
            self._wake()

    def _make_head(self, status: int, headers: Any) -> bytes:
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}\r\n".encode()]
        sized = False
        for name, value in headers:
            sized = sized or name.lower() == b"content-length"
            lines.append(name + b": " + value.replace(b"\r", b" ").replace(b"\n", b" ") + b"\r\n")
        self._chunked = not sized and self.scope["http_version"] == "1.1" and self.scope["method"] != "HEAD"
        if self._chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        if self._connection.ending or not self.keeps or not self.received:
            lines.append(b"connection: close\r\n")
        return b"".join([*lines, b"\r\n"])
