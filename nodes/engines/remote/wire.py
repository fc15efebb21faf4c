"""HTTP/1.1 to one server over kept connections: a request out, a reply's lines or its whole body back.

A general client costs several times what a short text does on the way; this one knows one host, JSON bodies and replies
that are chunked or have a length.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Mapping
from types import TracebackType
from urllib.parse import urlsplit

CONNECT_S = 5.0
# Between two pieces of a text: a model may be loaded first.
SILENCE_S = 300.0
MAX_HEAD_BYTES = 65_536
MAX_BODY_BYTES = 64 * 1024 * 1024
KEPT = 64


class ConnectionBroken(Exception):
    """The server cannot be reached, broke off, or does not speak HTTP."""


class Connection:
    """One connection; `used` once it has carried a whole reply.

    A server that says nothing for too long breaks whoever reads. One timer looks, whatever was read since it was set:
    a short text is a handful of readings.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.used = False
        self._due_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def hear(self, reading: Awaitable[bytes]) -> bytes:
        """What is read.

        Raises:
            ConnectionBroken: The server says nothing any more.
        """
        loop = asyncio.get_running_loop()
        self._due_s = loop.time() + SILENCE_S
        if self._timer is None:
            self._timer = loop.call_at(self._due_s, self._look)
        try:
            return await reading
        finally:
            self._due_s = None

    def _look(self) -> None:
        self._timer = None
        if self._due_s is None:
            return
        loop = asyncio.get_running_loop()
        if self._due_s <= loop.time():
            self.reader.set_exception(ConnectionBroken("the server says nothing any more"))
        else:
            self._timer = loop.call_at(self._due_s, self._look)

    def close(self) -> None:
        """Break it off, also in the middle of a reply."""
        if self._timer is not None:
            self._timer.cancel()
        self.writer.transport.abort()


class Reply:
    """A reply whose head has come.

    Args:
        connection: What the body comes over.
        status: HTTP status.
        headers: Names in lower case.
    """

    def __init__(self, connection: Connection, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        self.complete = False
        self._connection, self._reader = connection, connection.reader
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        length = headers.get("content-length", "")
        self._left = int(length[:12]) if length.isdecimal() else None
        self.keeps = headers.get("connection", "").lower() != "close" and (self._chunked or self._left is not None)

    async def parts(self) -> AsyncGenerator[bytes]:
        """The body as it comes.

        Raises:
            ConnectionBroken: It ends early.
        """
        try:
            if self._chunked:
                async for part in self._chunks():
                    yield part
            elif self._left is not None:
                while self._left:
                    part = await self._connection.hear(self._reader.read(min(self._left, MAX_HEAD_BYTES)))
                    if not part:
                        raise ConnectionBroken("the reply ended early")
                    self._left -= len(part)
                    yield part
            else:
                while part := await self._connection.hear(self._reader.read(MAX_HEAD_BYTES)):
                    yield part
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise ConnectionBroken("the reply broke off") from error
        self.complete = True

    async def _chunks(self) -> AsyncGenerator[bytes]:
        while True:
            head = await self._connection.hear(self._reader.readuntil(b"\r\n"))
            size = int(head.split(b";")[0], 16)
            if not 0 <= size <= MAX_BODY_BYTES:
                raise ConnectionBroken("the reply has a chunk without end")
            if size:
                yield await self._connection.hear(self._reader.readexactly(size))
                await self._connection.hear(self._reader.readexactly(2))
                continue
            # Trailers, then an empty line.
            while await self._connection.hear(self._reader.readuntil(b"\r\n")) != b"\r\n":
                pass
            return

    async def body(self) -> bytes:
        """The whole body; raises as `parts`."""
        if self._left is not None and not self._chunked:
            return await self._rest(self._left)
        parts, size = [], 0
        async for part in self.parts():
            parts.append(part)
            size += len(part)
            if size > MAX_BODY_BYTES:
                raise ConnectionBroken("the reply is too large")
        return b"".join(parts)

    async def _rest(self, left: int) -> bytes:
        """A body of known length."""
        if left > MAX_BODY_BYTES:
            raise ConnectionBroken("the reply is too large")
        parts = []
        try:
            while left:
                part = await self._connection.hear(self._reader.read(left))
                if not part:
                    raise ConnectionBroken("the reply ended early")
                left -= len(part)
                parts.append(part)
        except OSError as error:
            raise ConnectionBroken("the reply broke off") from error
        self.complete = True
        return b"".join(parts)

    async def lines(self) -> AsyncGenerator[str]:
        """The body line by line, as they come."""
        rest = b""
        async for part in self.parts():
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace").rstrip("\r")
            if len(rest) > MAX_BODY_BYTES:
                raise ConnectionBroken("the reply has a line without end")
        if rest:
            yield rest.decode(errors="replace")


class Host:
    """Connections to one server.

    Args:
        url: Of its API.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        self._name = parts.hostname or ""
        self._port = parts.port or (443 if secure else 80)
        self._base = parts.path.rstrip("/")
        self._host = parts.netloc
        self._tls = ssl.create_default_context() if secure else None
        self._idle: list[Connection] = []

    def request(self, method: str, path: str, headers: Mapping[str, str], data: bytes = b"") -> _Asking:
        """A reply, used as ``async with``; leaving the block before its end closes the connection.

        Raises:
            ConnectionBroken: see there.
        """
        return _Asking(self, self._head(method, path, headers, data) + data)

    def put_back(self, connection: Connection, reply: Reply) -> None:
        """A reply is done with: its connection is kept for the next one where all of it was read."""
        if reply.complete and reply.keeps and len(self._idle) < KEPT:
            connection.used = True
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """End the connections that are kept."""
        while self._idle:
            self._idle.pop().close()

    def _head(self, method: str, path: str, headers: Mapping[str, str], data: bytes) -> bytes:
        told = {"host": self._host, "content-type": "application/json", "content-length": str(len(data)), **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        return f"{method} {self._base}/{path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")

    async def ask(self, message: bytes) -> tuple[Connection, Reply]:
        """The connection over which a request went out, and the head of its reply.

        Raises:
            ConnectionBroken: see there.
        """
        while True:
            connection = self._idle.pop() if self._idle else await self._connect()
            try:
                connection.writer.write(message)
                return connection, await _read_head(connection)
            except ConnectionBroken:
                connection.close()
                if not connection.used:
                    raise
                # It was kept and the server had closed it meanwhile: nothing of the request has been done.
            except BaseException:
                connection.close()
                raise

    async def _connect(self) -> Connection:
        try:
            async with asyncio.timeout(CONNECT_S):
                streams = await asyncio.open_connection(self._name, self._port, ssl=self._tls, limit=MAX_HEAD_BYTES)
        except (OSError, TimeoutError) as error:
            raise ConnectionBroken("the server cannot be reached") from error
        return Connection(*streams)


class _Asking:
    """A request under way. A class, since a generator would cost a short text more than its reply does."""

    def __init__(self, host: Host, message: bytes) -> None:
        self._host, self._message = host, message

    async def __aenter__(self) -> Reply:
        self._connection, self._reply = await self._host.ask(self._message)
        return self._reply

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._host.put_back(self._connection, self._reply)


async def _read_head(connection: Connection) -> Reply:
    try:
        head = await connection.hear(connection.reader.readuntil(b"\r\n\r\n"))
        first, *lines = head.decode("latin-1").strip().split("\r\n")
        status = int(first.split()[1])
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    except (OSError, ValueError, IndexError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise ConnectionBroken("the server does not answer in HTTP") from error
    return Reply(connection, status, headers)
