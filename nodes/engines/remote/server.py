"""The server's HTTP API: which models it has, and one chat as a stream of events.

Foreign exceptions end here: what the server does becomes one of the node's own errors.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nodes.errors import ConfigError, EngineBusy, EngineDied, EngineError, InputInvalid

try:
    import httpx2 as httpx
except ImportError:  # said by `Server.open`, to whoever asks for such a server
    httpx = None  # type: ignore[assignment]

CONNECT_S = 5.0
# Between two pieces of a text: a model may be loaded first.
SILENCE_S = 300.0
MAX_LINE_CHARS = 1_000_000
DONE = "[DONE]"
BUSY = (408, 425, 429, 503)
REFUSED = (400, 413, 422)


@dataclass(frozen=True)
class Address:
    """Where a server is.

    Args:
        url: Of its API, such as ``http://127.0.0.1:11434/v1``.
        key_file: File of the key to show; read anew for every request.
    """

    url: str
    key_file: Path | None = None

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
        self._client: Any = None

    def open(self) -> None:
        """Make ready to ask.

        Raises:
            ConfigError: if the HTTP client is not installed.
        """
        if httpx is None:
            raise ConfigError("--openai needs the extra `remote`: pip install 'edgewise[remote]'")
        if self._client is None:
            timeout = httpx.Timeout(SILENCE_S, connect=CONNECT_S)
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
            base = self.address.url.rstrip("/") + "/"
            self._client = httpx.AsyncClient(base_url=base, timeout=timeout, limits=limits, trust_env=False)

    async def close(self) -> None:
        """End all connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def models(self) -> tuple[str, ...]:
        """What the server calls its models.

        Raises:
            EngineDied, EngineBusy, EngineError.
        """
        with_error = "the server's list of models cannot be read"
        async with self._request("GET", "models") as response:
            try:
                data = json.loads(await response.aread())["data"]
                return tuple(str(model["id"]) for model in data)
            except (KeyError, TypeError, ValueError) as error:
                raise EngineError(with_error) from error

    async def chat(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """The events of one chat; closing the generator closes the connection, which ends the work of most servers.

        Raises:
            EngineDied: if the server cannot be reached or breaks off.
            EngineBusy, EngineError, InputInvalid: what it said.
        """
        async with self._request("POST", "chat/completions", body) as response:
            ended = False
            async with aclosing(response.aiter_lines()) as lines:
                async for line in lines:
                    event = _event(line)
                    if event is DONE:
                        ended = True
                        break
                    if event is not None:
                        yield event
            if not ended:
                raise EngineDied("the server broke its answer off")

    @asynccontextmanager
    async def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> AsyncGenerator[Any]:
        if self._client is None:
            raise EngineDied("the engine is closed")
        try:
            async with self._client.stream(method, path, json=body, headers=self.address.headers()) as response:
                if response.status_code >= 300:
                    raise _refusal(response.status_code)
                yield response
        except httpx.HTTPError as error:
            raise EngineDied(f"the server cannot be asked ({type(error).__name__})") from error


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
    try:
        event = json.loads(data)
    except ValueError as error:
        raise EngineError("the server's answer cannot be read") from error
    if not isinstance(event, dict):
        raise EngineError("the server's answer cannot be read")
    if event.get("error"):
        raise EngineError("the server failed in the middle of its answer")
    return event
