"""JSON as it must be: one object, no key twice, UTF-8, texts without lone surrogates, not too deep. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import orjson

from orchestrator.errors import RequestError

# A hundred levels are more than any request of ours has.
MAX_DEPTH = 100
SPACE = " \t\n\r"
# Whole numbers beyond 64 bits become floats where orjson reads them.
LARGE = 2.0**63
NUMBERS = frozenset({int, float})


def parse(data: bytes, *, numbers: bool = False) -> tuple[dict[str, Any], bool]:
    """The object that a body holds, and whether all of its numbers are finite.

    NaN, Infinity and 1e999 are let through so that whoever reads a field can say which one is wrong; where the second
    value is False the request must be refused in any case.

    Args:
        numbers: Whether it may hold many numbers: a reader is tried first that takes those faster, and texts slower.

    Raises:
        RequestError: MALFORMED_MESSAGE, DUPLICATE_KEY, INVALID_TEXT.
    """
    quick = _quick(data) if numbers else None
    if quick is not None:
        return quick, True
    try:
        text = data.decode()
        value, finite = _READER.read(text)
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise RequestError("MALFORMED_MESSAGE", "The body is not valid JSON in UTF-8.") from None
    if not isinstance(value, dict):
        raise RequestError("MALFORMED_MESSAGE", "The body must be a JSON object.")
    if "\\u" in text and _has_surrogate(value):
        raise RequestError("INVALID_TEXT", "The body holds half of a surrogate pair, which is no text.")
    return value, finite


def not_finite() -> RequestError:
    """Refuses a body with a number that is none, once its known fields were looked at."""
    return RequestError("MALFORMED_MESSAGE", "Numbers must be finite; NaN and Infinity are not JSON.")


def _quick(data: bytes) -> dict[str, Any] | None:
    """What orjson finds in a body; None of one that is not in order, or of which it cannot be told whether it is.

    It takes no number that is not finite and no half of a surrogate pair, but of a key that comes twice it keeps one:
    then there are fewer texts in what it finds than between the quotes of the body.
    """
    quotes = data.count(b'"')
    if b"\\" in data:
        if b"\\\\" in data:
            return None
        quotes -= data.count(b'\\"')
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) and 2 * _texts_in(value) == quotes else None


def _texts_in(value: dict[str, Any]) -> int:
    """How many texts there are, keys among them; less than none where it is too deep or a number too large."""
    texts = 0
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for one in level:
            kind = type(one)
            if kind is str:
                texts += 1
            elif kind is dict:
                texts += len(one)
                below += one.values()
            elif kind is list:
                if NUMBERS.issuperset(map(type, one)):
                    # Tensors: many numbers, looked at in a loop of C.
                    if one and not -LARGE < min(one) <= max(one) < LARGE:
                        return -1
                else:
                    below += one
            elif kind is float and not -LARGE < one < LARGE:
                return -1
        if not below:
            return texts
        level = below
    return -1


class _Reader:
    """A decoder and what its hooks see; one for all bodies, as nothing is awaited while one is read."""

    def __init__(self) -> None:
        self._finite = True
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._pairs, parse_constant=self._constant, parse_float=self._number
        )
        self._scan: Callable[[str, int], tuple[Any, int]] = self._decoder.scan_once  # type: ignore[attr-defined]

    def read(self, text: str) -> tuple[Any, bool]:
        """What a text holds, and whether all of its numbers are finite."""
        self._finite = True
        if not text.startswith("{"):
            return self._decoder.decode(text), self._finite
        # The usual body needs no search for its first character, and seldom one behind its last.
        try:
            value, end = self._scan(text, 0)
        except StopIteration:
            raise ValueError("a value is missing") from None
        if end != len(text) and text[end:].strip(SPACE):
            raise ValueError("something follows the object")
        return value, self._finite

    def _constant(self, _: str) -> float:
        self._finite = False
        return math.nan

    def _number(self, text: str) -> float:
        value = float(text)
        if math.isinf(value):
            self._finite = False
        return value

    def _pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise RequestError("DUPLICATE_KEY", "An object of the body has a key twice.")
        return made


_READER = _Reader()


def _has_surrogate(value: Any) -> bool:
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            pending += one.keys()
            pending += one.values()
        elif isinstance(one, list):
            pending += one
        elif isinstance(one, str) and not _encodable(one):
            return True
    return False


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
