"""The server's HTTP API: which models it has, and one chat as a stream of events.

Foreign exceptions end here: what the server does becomes one of the node's own errors.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nodes.engines.remote.wire import ConnectionBroken, Host, Reply
from nodes.errors import ConfigError, EngineBusy, EngineDied, EngineError, InputInvalid

MAX_LINE_CHARS = 1_000_000
DONE = "[DONE]"
BUSY = (408, 425, 429, 503)
REFUSED = (400, 413, 422)
# One for all requests: `json.dumps` would make one for each.
_ENCODER = json.JSONEncoder(check_circular=False, separators=(",", ":"))


@dataclass(frozen=True)
class Address:
    """Where a server is.

    Args:
        url: Of its API, such as ``http://127.0.0.1:11434/v1``.
        key_file: File of the key to show; read anew for every request.
        key: The key itself, where it is in no file.
    """

    url: str
    key_file: Path | None = None
    key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ConfigError("--openai: use http://HOST:PORT/v1 or https://…, without a name or key in it")

    @property
    def is_here(self) -> bool:
        """Whether it is surely on this machine: only then may a sensor of this machine speak for it."""
        host = urlsplit(self.url).hostname or ""
        if host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def headers(self) -> dict[str, str]:
        """What is shown to the server.

        Raises:
            EngineError: if the key's file cannot be read.
        """
        if self.key:
            return {"authorization": f"Bearer {self.key}"}
        if self.key_file is None:
            return {}
        try:
            return {"authorization": f"Bearer {self.key_file.read_text().strip()}"}
        except OSError as error:
            raise EngineError(f"the key's file cannot be read: {error.strerror}") from error


class Server:
    """One server.

    Args:
        address: Where it is.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._host: Host | None = None

    def open(self) -> None:
        """Make ready to ask."""
        if self._host is None:
            self._host = Host(self.address.url)

    def move(self, address: Address) -> None:
        """It is somewhere else from now on; kept connections to where it was end."""
        self.address = address
        if self._host is not None:
            self._host.close()
            self._host = Host(address.url)

    async def close(self) -> None:
        """End all connections."""
        host, self._host = self._host, None
        if host is not None:
            host.close()

    async def models(self) -> tuple[str, ...]:
        """What the server calls its models.

        Raises:
            EngineDied, EngineBusy, EngineError.
        """
        async with self._request("GET", "models") as reply:
            try:
                return tuple(str(model["id"]) for model in json.loads(await reply.body())["data"])
            except (KeyError, TypeError, ValueError) as error:
                raise EngineError("the server's list of models cannot be read") from error

    async def chat(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """The events of one chat; closing the generator closes the connection, which ends the work of most servers.

        Raises:
            EngineDied: if the server cannot be reached or breaks off.
            EngineBusy, EngineError, InputInvalid: what it said.
        """
        async with self._request("POST", "chat/completions", body) as reply:
            ended = False
            async with aclosing(reply.lines()) as lines:
                async for line in lines:
                    event = None if ended else _event(line)
                    if event is DONE:
                        # Read on to the end of the reply: the connection can then be kept.
                        ended = True
                    elif event is not None:
                        yield event
            if not ended:
                raise EngineDied("the server broke its answer off")

    async def whole_chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """The one document of a chat that nobody reads before its end; raises as `chat`."""
        return await self._whole("chat/completions", body)

    async def embed(self, body: dict[str, Any]) -> dict[str, Any]:
        """The document of one request for embeddings; raises as `chat`."""
        return await self._whole("embeddings", body)

    async def _whole(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        asking = self._asking("POST", path, body)
        try:
            async with asking as reply:
                _check(reply)
                data = await reply.body()
        except ConnectionBroken as broken:
            raise EngineDied(str(broken)) from broken
        try:
            return _document(data.decode())
        except UnicodeDecodeError as error:
            raise EngineError("the server's answer cannot be read") from error

    @asynccontextmanager
    async def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> AsyncGenerator[Reply]:
        asking = self._asking(method, path, body)
        try:
            async with asking as reply:
                _check(reply)
                yield reply
        except ConnectionBroken as broken:
            raise EngineDied(str(broken)) from broken

    def _asking(self, method: str, path: str, body: dict[str, Any] | None) -> AbstractAsyncContextManager[Reply]:
        if self._host is None:
            raise EngineDied("the engine is closed")
        data = b"" if body is None else _ENCODER.encode(body).encode()
        return self._host.request(method, path, self.address.headers(), data)


def _check(reply: Reply) -> None:
    if reply.status >= 300:
        raise _refusal(reply.status)


def _refusal(status: int) -> EngineError | InputInvalid:
    if status in BUSY:
        return EngineBusy(f"the server is busy (HTTP {status})")
    if status in REFUSED:
        return InputInvalid(f"the server does not take this request (HTTP {status})")
    return EngineError(f"the server refused (HTTP {status})")


def _event(line: str) -> Any:
    """The object of one event; DONE at the end, None for what is no event."""
    if not line.startswith("data:"):
        return None
    data = line.removeprefix("data:").strip()
    if data == DONE:
        return DONE
    if len(data) > MAX_LINE_CHARS:
        raise EngineError("the server's answer has an event without end")
    return _document(data)


def _document(data: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError as error:
        raise EngineError("the server's answer cannot be read") from error
    if not isinstance(document, dict):
        raise EngineError("the server's answer cannot be read")
    if document.get("error"):
        raise EngineError("the server failed in the middle of its answer")
    return document
