"""One request and its reply, as ASGI has them, on a connection of `orchestrator.door.server`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping
from http import HTTPStatus
from typing import Any, Protocol

from orchestrator.door.head import TURN, Head, scope_again

# Bytes of a body that lie unread.
HIGH_WATER = 262_144
REASONS = {status.value: status.phrase for status in HTTPStatus} | {413: "Content Too Large"}
FIRST_LINES = {status: f"HTTP/1.1 {status} {reason}\r\n" for status, reason in REASONS.items()}
DISCONNECT = {"type": "http.disconnect"}


class Link(Protocol):
    """What a turn needs of its connection."""

    @property
    def ending(self) -> bool:
        """Whether the connection ends after what is under way."""
        ...

    @property
    def full(self) -> bool:
        """Whether the client does not take what was sent before; then `drained` comes before the next `write`."""
        ...

    def write(self, data: bytes) -> None:
        """Send."""
        ...

    async def drained(self) -> None:
        """Wait while the client does not take what was sent before."""
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
        parsed: What its head was found to say: a scope as of ASGI, which nobody may write to.
        head: The same for those who answer.
        keeps: Whether its client wants the connection kept.
        expects: Whether its client waits to be told to go on before it sends the body.
        body: All of it, where it is here already.
        length: What the head says of its length, where `parsed` is of a request before this one.
    """

    __slots__ = (
        *("parsed", "method", "head", "keeps", "received", "started", "finished", "cancelled"),
        *(
            "_connection",
            "_body",
            "_held",
            "_gone",
            "_told",
            "_attended",
            "_waiting",
            "_continue",
            "_chunked",
            "_reply",
            "_length",
        ),
    )

    def __init__(
        self,
        connection: Link,
        parsed: Mapping[str, Any],
        head: Head,
        *,
        keeps: bool,
        expects: bool = False,
        body: bytes | None = None,
        length: bytes | None = None,
    ) -> None:
        self.parsed, self._length = parsed, length
        self.method: str = parsed["method"]
        self.head, self.keeps = head, keeps
        self.received = body is not None
        self.started = self.finished = self.cancelled = False
        self._connection = connection
        # What came and was not read yet.
        self._body: bytes | bytearray = body or b""
        self._held = self._gone = self._told = self._attended = self._chunked = False
        self._waiting: asyncio.Future[None] | None = None
        self._continue = expects
        # The head of the reply, until it leaves with the first part of the body.
        self._reply = b""

    @property
    def scope(self) -> dict[str, Any]:
        """See ASGI; made anew whenever it is asked for, as whoever knows us needs none."""
        scope = self.parsed if self._length is None else scope_again(self.parsed, self._length)
        return {**scope, TURN: self}

    # ---- what comes

    def take(self, body: bytes) -> None:
        """A part of the body came."""
        if not self._body:
            self._body = body
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += body
        if len(self._body) > HIGH_WATER and not self._held:
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
        """The body, where all of it is here and unread; None where it must be received. Asked before `receive`."""
        if not self.received or self._told or self._gone or self._continue:
            return None
        return self._take_all()

    async def receive(self) -> dict[str, Any]:
        """See ASGI."""
        if self._continue and not self.started:
            self._continue = False
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await self._connection.drained()
        while True:
            if self._body or (self.received and not self._told):
                body = self._take_all()
                return {"type": "http.request", "body": body, "more_body": not self._told}
            if self._gone or self.finished:
                return DISCONNECT
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting

    def _take_all(self) -> bytes:
        body, self._body = bytes(self._body), b""
        if self._held:
            self._held = False
            self._connection.hold(False)
        self._told = self.received
        return body

    # ---- what goes

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """See ASGI. The head waits for the first part of the body, so that a short reply is one write."""
        if message["type"] == "http.response.start":
            fields = [(name.lower(), value) for name, value in message.get("headers", ())]
            sized = any(name == b"content-length" for name, _ in fields)
            lines = [b"%b: %b\r\n" % (name, value.replace(b"\r", b" ").replace(b"\n", b" ")) for name, value in fields]
            self._reply = self._make_head(message["status"], b"".join(lines), sized=sized)
            return
        more, body = message.get("more_body", False), message.get("body", b"")
        if self._chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        self._write(body, more=more)
        if self._connection.full:
            await self._connection.drained()
        if self.finished:
            self._wake()

    async def answer(self, status: int, lines: str, body: bytes) -> None:
        """A whole reply at once; `lines` as of `header_lines`, but for the length of the body, which is told here."""
        lines = f"{_first_line(status)}{lines}content-length: {len(body)}\r\n{self._whether_kept()}\r\n"
        head = lines.encode("latin-1", "replace")
        self.started = self.finished = True
        if not self._gone:
            self._connection.write(head if self.method == "HEAD" else head + body)
        if self._connection.full:
            await self._connection.drained()
        if self._waiting is not None:
            self._wake()

    def _write(self, body: bytes, *, more: bool) -> None:
        data, self._reply = self._reply + (b"" if self.method == "HEAD" else body), b""
        self.started = True
        self.finished = not more
        if not self._gone:
            self._connection.write(data)

    def _make_head(self, status: int, lines: bytes, *, sized: bool) -> bytes:
        self._chunked, last = False, b""
        if not sized and self.method != "HEAD":
            if self.parsed["http_version"] == "1.1":
                self._chunked, last = True, b"transfer-encoding: chunked\r\n"
            else:
                # Only the end of the connection tells an old client where such a body ends.
                self.keeps = False
        last += self._whether_kept().encode()
        return b"%b%b%b\r\n" % (_first_line(status).encode(), lines, last)

    def _whether_kept(self) -> str:
        """The header that tells whether the connection goes on, where the client may take it otherwise."""
        if not self.keeps or not self.received or self._connection.ending:
            return "connection: close\r\n"
        # An old client takes it for closed unless it is told.
        return "connection: keep-alive\r\n" if self.parsed["http_version"] == "1.0" else ""


def _first_line(status: int) -> str:
    return FIRST_LINES.get(status) or f"HTTP/1.1 {status} Status\r\n"
