"""The head of a request, and the one that a kept connection sends again and again, but for the length of the body."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

# Headers that are part of what is asked.
ASKING_HEADERS = ("x-edgewise-", "x-slo-", "x-litellm-timeout")
ID_HEADERS = ("x-edgewise-request-id", "idempotency-key")
LENGTH = b"content-length"
JSON = "application/json"
# Where the scope of our own server holds the turn, see `orchestrator.door.exchange.OwnTurn`.
TURN = "edgewise.turn"
# Of the length of a body; one that needs more is looked at by the parser.
MAX_DIGITS = 7
# Of a head that is kept for as long as its connection.
MAX_BYTES = 4096
_LENGTH_LINE = re.compile(rb"\r\ncontent-length: ([0-9]{1,7})\r\n", re.IGNORECASE)
_END = b"\r\n\r\n"


def header_lines(headers: Mapping[str, str]) -> str:
    """Headers as they are written, each with the end of its line; what would end one early is a space."""
    return "".join([f"{name}: {one_line(value)}\r\n" for name, value in headers.items()])


def one_line(value: str) -> str:
    """A header's value without what would end its line early."""
    return value.replace("\r", " ").replace("\n", " ")


class Head:
    """What a head says. One object serves every request that has the same head.

    Args:
        fields: Names in lower case, and values.
        headers: The same as texts, but for the length of the body; of a header that comes twice, the last one.
        asking: Those of them that are part of what is asked, ids included.
        has_id: Whether the client chose an id.
        says_json: Whether the body is plain JSON, not compressed.
        entrance: What whoever stands at the door has found out from the head alone.
    """

    __slots__ = ("asking", "entrance", "has_id", "headers", "says_json")

    def __init__(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        self.headers: Mapping[str, str] = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in fields if name != LENGTH
        }
        self.asking: Mapping[str, str] = {
            name: value
            for name, value in self.headers.items()
            if name.startswith(ASKING_HEADERS) or name == "idempotency-key"
        }
        self.has_id = any(map(self.asking.get, ID_HEADERS))
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        self.says_json = kind == JSON and self.headers.get("content-encoding", "identity") == "identity"
        self.entrance: Any = None


class Repeated:
    """A head that was read, and how to know that the next request has the same.

    What a parser finds in a head depends on nothing but its bytes, so those that are the same need not be parsed again.
    The length of the body alone may differ.

    Args:
        before, after: The head's bytes before the digits of the length, and behind them.
        scope: What was found in it, see ASGI; nobody may write to it.
        head: The same for those who answer.
    """

    __slots__ = ("_after", "_before", "head", "scope")

    def __init__(self, before: bytes, after: bytes, scope: Mapping[str, Any], head: Head) -> None:
        self._before, self._after, self.scope, self.head = before, after, scope, head

    def read(self, data: bytes) -> tuple[bytes, bytes] | None:
        """The length of one more request's body as its head says it, and that body, where `data` is this head, that
        body and nothing else."""
        if not data.startswith(self._before):
            return None
        start = len(self._before)
        end = data.find(b"\r", start, start + MAX_DIGITS + 1)
        if end < 0 or not data.startswith(self._after, end):
            return None
        digits, body = data[start:end], data[end + len(self._after) :]
        if not digits.isdigit() or int(digits) != len(body):
            return None
        return digits, body


def repeated(data: bytes, scope: Mapping[str, Any], head: Head) -> Repeated | None:
    """How to know the head of a request again; None where `data` is anything but one head and its body.

    Args:
        data: Everything that came; a message began with its first byte.
        scope: What the parser found in the last message's head.
        head: The same for those who answer.
    """
    end = data.find(_END, 0, MAX_BYTES) + len(_END)
    found = _LENGTH_LINE.search(data, 0, end)
    if found is None or len(data) - end != int(found[1]) or (LENGTH, found[1]) not in scope["headers"]:
        return None
    return Repeated(data[: found.start(1)], data[found.end(1) : end], scope, head)


def scope_again(scope: Mapping[str, Any], length: bytes) -> dict[str, Any]:
    """The scope of one more request with the same head, but for the length of its body."""
    headers = [(name, length if name == LENGTH else value) for name, value in scope["headers"]]
    return {**scope, "headers": headers, "state": {}}
