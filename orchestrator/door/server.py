"""HTTP/1.1 in front of an ASGI application: llhttp reads, one task answers, one write sends what fits into one. A head
that a kept connection sends again is known by its bytes, and not read again.

What a general server costs a request is several times what routing it does, and none bounds how long a head may take.
Here a connection that says nothing, or does not get to the end of a head in time, is closed; heads are bounded in bytes
and in number of fields; a body waits unread once enough of it lies here; and a client that goes away is told to the
application at once.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import httptools
import structlog

from orchestrator.abreast import Gathering
from orchestrator.door.head import Head, Repeated, repeated
from orchestrator.door.turn import HIGH_WATER, REASONS, Turn

HEAD_S, IDLE_S, GRACE_S, PART_S = 5.0, 75.0, 1.0, 1.0
MAX_HEAD_BYTES = 16_384
MAX_HEADERS = 100
# Requests of one connection that may come before their turn.
MAX_AHEAD = 64
MAX_CONNECTIONS = 4096
ASGI = {"version": "3.0", "spec_version": "2.3"}
App = Callable[[Any, Any, Any], Awaitable[None]]
Answer = Callable[[Turn], Awaitable[None]]

log = structlog.get_logger("http")


class HttpServer:
    """Serves an application on one listening socket.

    Args:
        app: See ASGI. One that knows us has `answer` beside that, which takes a turn as it is.
        listener: Listens already.
        tls: With which certificate; None speaks plaintext.
    """

    def __init__(self, app: App, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        self.answer: Answer = getattr(app, "answer", None) or over_asgi(app)
        self._tls = tls
        self.connections: set[_Connection] = set()
        self.gathering = Gathering()
        # Requests that the application has and has not answered.
        self.answering = 0
        self._listener = listener
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Take connections from now on."""
        loop = asyncio.get_running_loop()
        secured: dict[str, Any] = {"ssl": self._tls, "ssl_handshake_timeout": HEAD_S} if self._tls else {}
        self._server = await loop.create_server(lambda: _Connection(self), sock=self._listener, **secured)

    async def close(self) -> None:
        """Take none any more; what is under way has a moment to end."""
        if self._server is not None:
            self._server.close()
        self.gathering.flush()
        for connection in list(self.connections):
            connection.end_when_idle()
        tasks = [connection.task for connection in self.connections if connection.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=GRACE_S)
        for connection in list(self.connections):
            connection.abort()


def over_asgi(app: App) -> Answer:
    """How an application is asked that knows ASGI alone."""
    return lambda turn: app(turn.scope, turn.receive, turn.send)


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, server: HttpServer) -> None:
        self.task: asyncio.Task[None] | None = None
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self._loop = asyncio.get_running_loop()
        self._client: tuple[Any, ...] | None = None
        self._server_address: tuple[Any, ...] | None = None
        # When a connection that says nothing is closed; one timer looks, whatever came and went since it was set.
        self._due_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        # The request that is answered, those that came before their turn, and the one that is still coming.
        self._exchange: Turn | None = None
        self._queue: deque[Turn] = deque()
        self._coming: Turn | None = None
        # The head that came last, where a further request with it need not be parsed; the turn that may be such a one.
        self._repeated: Repeated | None = None
        self._plain: Turn | None = None
        # Whether the connection ends after what is under way, and whether its client does not take what was sent.
        self.ending = self.full = False
        self._deaf = False
        self._writable = asyncio.Event()
        self._writable.set()
        self.on_message_begin()
        # Whether the parser waits for the first byte of a message.
        self._between = True

    # ---- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._client = _address(transport, "peername")
        self._server_address = _address(transport, "sockname")
        if len(self._server.connections) >= MAX_CONNECTIONS:
            self._refuse(503)
            return
        self._server.connections.add(self)
        self._wait(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._server.connections.discard(self)
        self._due_s = None
        if self._timer is not None:
            self._timer.cancel()
        self.resume_writing()
        self._queue.clear()
        if self._exchange is not None:
            self._exchange.gone()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        between, known = self._between, self._repeated
        if between and known is not None and (found := known.read(data)) is not None:
            length, body = found
            self._head_bytes = 0
            if not self._take(Turn(self, known.scope, known.head, keeps=True, body=body, length=length)):
                self._fail(400)
            return
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(400)
        except httptools.HttpParserError as error:
            self._fail(error.__context__.status if isinstance(error.__context__, _Refused) else 400)
        else:
            if self._head_bytes > MAX_HEAD_BYTES:
                self._fail(431)
            elif between and self._between and self._plain is not None:
                self._repeated, self._plain = repeated(data, self._plain.parsed, self._plain.head), None

    def pause_writing(self) -> None:
        self.full = True
        self._writable.clear()

    def resume_writing(self) -> None:
        self.full = False
        self._writable.set()

    def _fail(self, status: int) -> None:
        """What comes is no HTTP: said at once where nothing is under way, else the connection ends afterwards."""
        self._deaf = self.ending = True
        current = self._exchange
        if current is None:
            self._refuse(status)
        elif current is self._coming and not current.started:
            self._exchange = None
            if self.task is not None:
                self.task.cancel()
            self._refuse(status)

    # ---- the parser's side

    def on_message_begin(self) -> None:
        self._between = False
        self._plain = None
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        # What came since anything of a body did: of a head, of what stands before a chunk, or behind the last one.
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._coming is not None:
            # It stands behind a body: nobody looks there for what it says.
            return
        self._headers.append((name.lower(), value))
        if len(self._headers) > MAX_HEADERS or self._head_bytes > MAX_HEAD_BYTES + HIGH_WATER:
            raise _Refused(431)

    def on_headers_complete(self) -> None:
        if len(self._url) + sum([len(name) + len(value) for name, value in self._headers]) > MAX_HEAD_BYTES:
            raise _Refused(431)
        names = [name for name, _ in self._headers]
        # Two ways to say where a body ends are one too many, as are two lengths.
        if (b"transfer-encoding" in names and b"content-length" in names) or names.count(b"content-length") > 1:
            raise _Refused(400)
        # One host (RFC 9112), which an old client need not name: of two, whoever stands between may read the other.
        hosts = names.count(b"host")
        if hosts > 1 or (not hosts and self._parser.get_http_version() == "1.1"):
            raise _Refused(400)
        # Afterwards the parser has forgotten what the head said of it.
        keeps, expects = bool(self._parser.should_keep_alive()), b"expect" in names
        self._coming = Turn(self, self._scope(), Head(self._headers), keeps=keeps, expects=expects)
        if keeps and not expects:
            self._plain = self._coming
        if not self._take(self._coming):
            raise _Refused(400)

    def _take(self, coming: Turn) -> bool:
        """Begin a request whose head is here, or let it wait for those before it; False where too many wait."""
        self._due_s = None
        if self._exchange is None:
            self._begin(coming)
        elif len(self._queue) < MAX_AHEAD:
            self._queue.append(coming)
        else:
            return False
        return True

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        if self._coming is not None:
            self._coming.take(body)

    def on_message_complete(self) -> None:
        self._between = True
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.complete()
            self._deaf = self._deaf or not coming.keeps

    def _scope(self) -> dict[str, Any]:
        path, _, query = self._url.partition(b"?")
        return {
            "type": "http",
            "asgi": ASGI,
            "http_version": self._parser.get_http_version(),
            "method": self._parser.get_method().decode("ascii"),
            "scheme": "http",
            "path": unquote(path.decode("latin-1")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": self._headers,
            "client": self._client,
            "server": self._server_address,
            "state": {},
        }

    # ---- answering

    def _begin(self, exchange: Turn) -> None:
        self._exchange = exchange
        self._server.gathering.take(self._start, alone=not self._server.answering)

    def _start(self) -> None:
        # What has turned out to be no HTTP meanwhile was refused.
        if self._exchange is not None:
            self.task = self._loop.create_task(self._answer(self._exchange))

    async def _answer(self, exchange: Turn) -> None:
        self._server.answering += 1
        try:
            await self._server.answer(exchange)
        except asyncio.CancelledError:
            if not self._deaf:
                self.abort()
            raise
        except Exception as error:  # the rim: the application answers its own errors; this one is a bug
            log.error("http.crashed", exc_info=error)
        finally:
            self._server.answering -= 1
        if not exchange.finished:
            if exchange.started:
                self.abort()
            else:
                self._refuse(500)
            return
        self._next(exchange)

    def _next(self, exchange: Turn) -> None:
        """Ready for the connection's next request; a body that nobody read ends the connection."""
        self._exchange = self.task = None
        if not exchange.received:
            self._part()
        elif not exchange.keeps or (self.ending and not self._queue):
            self._transport.close()
        elif self._queue:
            self._begin(self._queue.popleft())
        else:
            self._wait(IDLE_S)

    def write(self, data: bytes) -> None:
        """Send."""
        self._transport.write(data)

    async def drained(self) -> None:
        """Wait while the client does not take what was sent before."""
        await self._writable.wait()

    def hold(self, held: bool) -> None:
        """Stop reading, or go on."""
        if self._transport.is_closing():
            return
        (self._transport.pause_reading if held else self._transport.resume_reading)()

    def cancel(self) -> None:
        """Cancel whoever answers."""
        if self.task is not None:
            self.task.cancel()

    def end_when_idle(self) -> None:
        """Close now, or after the request that is under way."""
        self.ending = True
        if self._exchange is None and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _refuse(self, status: int) -> None:
        if not self._transport.is_closing():
            head = f"HTTP/1.1 {status} {REASONS[status]}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            self._transport.write(head.encode())
            self._part()

    def _part(self) -> None:
        """Close, but hear a client out for a moment: one that still sends would lose the reply by a reset."""
        self._deaf = True
        if self._transport.is_closing():
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._transport.resume_reading()
        self._wait(PART_S)

    def _wait(self, seconds: float) -> None:
        """Close after so long, unless something comes. A request on a kept connection costs no timer of its own."""
        due_s = self._due_s = self._loop.time() + seconds
        if self._timer is not None and self._timer.when() > due_s:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(due_s, self._look)

    def _look(self) -> None:
        """Whether the time is up; where it was put off since, look again then."""
        self._timer = None
        if self._due_s is None:
            return
        if self._due_s <= self._loop.time():
            self._transport.close()
        else:
            self._timer = self._loop.call_at(self._due_s, self._look)


def _address(transport: asyncio.BaseTransport, which: str) -> tuple[Any, ...] | None:
    """Host and port; None where the other side has left already."""
    found = transport.get_extra_info(which)
    return found[:2] if found else None


class _Refused(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status
