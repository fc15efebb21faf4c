"""One HTTP request and its reply over ASGI: a body that is bounded in bytes and seconds, and work that ends with its
client."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from typing import Any, Protocol

import orjson
import structlog

from orchestrator.door.head import JSON, LENGTH, TURN, Head, header_lines
from orchestrator.errors import EdgewiseError, InternalError, RequestError
from orchestrator.execution.window import Window

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# A body must have come within this time.
BODY_S = 3.0
EVENTS = "text/event-stream; charset=utf-8"

log = structlog.get_logger("http")


class ClientGone(Exception):
    """Nobody waits for the reply any more."""


class OwnTurn(Protocol):
    """What our own server lets be done beside ASGI, so that the usual request needs no timer, no second task and no
    message for each part of its reply."""

    head: Head
    method: str

    @property
    def scope(self) -> Scope:
        """See ASGI."""
        ...

    async def receive(self) -> MutableMapping[str, Any]:
        """See ASGI."""
        ...

    async def send(self, message: MutableMapping[str, Any], /) -> None:
        """See ASGI."""
        ...

    def whole(self) -> bytes | None:
        """The body, where all of it is here and unread; None where it must be received. Asked before `receive`."""
        ...

    async def answer(self, status: int, lines: str, body: bytes) -> None:
        """A whole reply at once; `lines` as of `header_lines`, but for the length of the body, which is told here."""
        ...

    def attend(self, on: bool) -> None:
        """While `on`, whoever answers is cancelled when the client leaves: once, and at once where it has left."""
        ...

    @property
    def cancelled(self) -> bool:
        """Whether that has happened."""
        ...


class Foreign:
    """One request and its reply on a server that knows ASGI alone.

    Args:
        scope: See ASGI.
        receive: See ASGI.
        send: See ASGI.
    """

    __slots__ = ("head", "method", "receive", "scope", "send")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        self.method: str = scope["method"]
        self.head = Head(scope["headers"])

    def whole(self) -> None:
        """The body is always received."""

    async def answer(self, status: int, lines: str, body: bytes) -> None:
        """A whole reply in two messages; `lines` as of `header_lines`."""
        told = [line.partition(b": ")[::2] for line in lines.encode("latin-1", "replace").split(b"\r\n") if line]
        told.append((LENGTH, b"%d" % len(body)))
        await self.send({"type": "http.response.start", "status": status, "headers": told})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    async def watched(self, work: Work) -> None:
        """Do the work; cancelled as soon as the client is gone, for which a second task waits."""
        doing = asyncio.ensure_future(work)
        watching = asyncio.ensure_future(self._gone())
        try:
            await asyncio.wait((doing, watching), return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                doing.result()
        finally:
            watching.cancel()
            if not doing.done():
                doing.cancel()
                await asyncio.gather(doing, return_exceptions=True)

    async def _gone(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass


class Exchange:
    """One request on its way.

    Args:
        turn: The request and its reply; `Foreign` where it is not of our own server.
        limit_bytes: Most bytes of a body.
        scope: See ASGI, where a router has written to it.
    """

    __slots__ = ("_limit_bytes", "_scope", "_turn", "head", "started")

    def __init__(self, turn: OwnTurn | Foreign, limit_bytes: int, scope: Scope | None = None) -> None:
        self._turn, self._limit_bytes, self._scope = turn, limit_bytes, scope
        self.head = turn.head
        self.started = False

    @property
    def scope(self) -> Scope:
        """See ASGI."""
        return self._turn.scope if self._scope is None else self._scope

    @property
    def headers(self) -> Mapping[str, str]:
        """By name in lower case, but for the length of the body; of a header that comes twice, the last one."""
        return self.head.headers

    def parameter(self, name: str) -> str:
        """A part of the path."""
        return str(self.scope["path_params"][name])

    async def body(self) -> bytes:
        """The whole body.

        Raises:
            RequestError: BODY_TOO_LARGE or BODY_TOO_SLOW.
            ClientGone: It broke off.
        """
        whole = self._turn.whole()
        if whole is not None:
            if len(whole) > self._limit_bytes:
                raise self._too_large()
            return whole
        declared = dict(self.scope["headers"]).get(LENGTH, b"")
        if declared.isdigit() and int(declared[:20]) > self._limit_bytes:
            raise self._too_large()
        try:
            with Window(BODY_S):
                return await self._read()
        except TimeoutError:
            raise RequestError("BODY_TOO_SLOW", f"The body must come within {BODY_S:g} s.") from None

    async def _read(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._turn.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            size += len(part)
            if size > self._limit_bytes:
                raise self._too_large()
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    def _too_large(self) -> RequestError:
        limit = self._limit_bytes
        return RequestError(
            "BODY_TOO_LARGE", f"The body may have at most {limit} bytes.", metadata={"limitBytes": str(limit)}
        )

    def check_json(self) -> None:
        """Refuses a body that does not say that it is plain JSON: browsers send no such thing across sites unasked.

        Raises:
            RequestError: MEDIA_TYPE_NOT_ALLOWED.
        """
        if not self.head.says_json:
            raise RequestError("MEDIA_TYPE_NOT_ALLOWED", "The body must be application/json, not compressed.")

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send status and headers."""
        self.started = True
        encoded = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await self._turn.send({"type": "http.response.start", "status": status, "headers": encoded})

    async def write(self, data: bytes, *, more: bool = False) -> None:
        """Send a part of the body."""
        await self._turn.send({"type": "http.response.body", "body": data, "more_body": more})

    def reply(self, status: int, data: bytes, lines: str = "", *, kind: str = JSON) -> Awaitable[None]:
        """Send a whole reply, once this is awaited; `lines` are its own headers as of `header_lines`."""
        self.started = True
        return self._turn.answer(status, f"content-type: {kind}\r\n{lines}", data)

    def reply_json(self, status: int, value: Any, lines: str = "") -> Awaitable[None]:
        """Send a whole reply in JSON, once this is awaited; `lines` as of `reply`."""
        return self.reply(status, dump(value), lines)

    def attended(self, work: Work) -> Awaitable[None]:
        """The work of the reply, to be awaited; cancelled as soon as the client is gone."""
        if isinstance(self._turn, Foreign):
            return self._turn.watched(work)
        # Our own server says when its client leaves: no second task is needed that waits for it.
        self._turn.attend(True)
        return work

    def unattended(self) -> bool:
        """Let what follows be done whether the client is there or not; whether it has left and ended the work."""
        if isinstance(self._turn, Foreign):
            return False
        self._turn.attend(False)
        return self._turn.cancelled


def dump(value: Any) -> bytes:
    """JSON in UTF-8; a number that is not finite, which JSON does not know, is null."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:
        # Of what an expert made up: whole numbers beyond 64 bits, or lists within lists without end.
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


# Makes the reply, or gives the work that makes it, to be done for as long as the client is there.
Work = Coroutine[Any, Any, None]
Handler = Callable[[Exchange], Awaitable[Work | None]]
Problem = Callable[[EdgewiseError], tuple[int, Any, dict[str, str]]]


class Endpoint:
    """An ASGI application for one route.

    Args:
        method: The only one allowed.
        handle: See `Handler`.
        problem: Status, body and headers of an error.
        limit_bytes: Most bytes of a body.
    """

    def __init__(self, method: str, handle: Handler, problem: Problem, *, limit_bytes: int) -> None:
        self._methods = (method, "HEAD") if method == "GET" else (method,)
        self._handle = handle
        self._problem = problem
        self._limit_bytes = limit_bytes

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """See ASGI; what is answered is so once this is awaited."""
        turn: OwnTurn | None = scope.get(TURN)
        return self.answer(Foreign(scope, receive, send) if turn is None else turn, scope)

    async def answer(self, turn: OwnTurn | Foreign, scope: Scope | None = None) -> None:
        """The same for a request that has come this far without a scope, or has one that a router has written to."""
        exchange = Exchange(turn, self._limit_bytes, scope)
        try:
            if turn.method not in self._methods:
                raise RequestError("METHOD_NOT_ALLOWED", f"This path takes {self._methods[0]} only.")
            work = await self._handle(exchange)
            if work is not None:
                await exchange.attended(work)
        except ClientGone:
            return
        except asyncio.CancelledError:
            if not exchange.unattended():
                raise
        except Exception as error:  # the rim
            exchange.unattended()
            await self._refuse(exchange, error)

    async def _refuse(self, exchange: Exchange, error: Exception) -> None:
        if not isinstance(error, EdgewiseError):
            request_id = uuid.uuid4().hex
            log.error("internal_error", request_id=request_id, exc_info=error)
            error = InternalError(request_id)
        status, body, headers = self._problem(error)
        if exchange.started:
            # The status has left: the error is the stream's last event, and no [DONE] follows.
            await exchange.write(b"data: " + dump(body) + b"\n\n")
            return
        if error.surface.http_code == "method_not_allowed":
            headers["allow"] = self._methods[0]
        await exchange.reply_json(status, body, header_lines(headers))
