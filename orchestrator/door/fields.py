"""Fields of a JSON object, each of the type and in the range that it must have; errors never echo them. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.errors import RequestError


class Fields:
    """One object of a request.

    Args:
        value: What was sent.
        path: Where it is in the request, "" for the request itself.

    Every reading method gives None for a field that is absent or null, and raises FIELD_OUT_OF_RANGE for one of another
    type.
    """

    __slots__ = ("_path", "value")

    def __init__(self, value: Mapping[str, Any], path: str = "") -> None:
        self.value = value
        self._path = path

    def path(self, name: str) -> str:
        """Where a field is in the request."""
        return f"{self._path}.{name}" if self._path else name

    def only(self, *known: str) -> None:
        """Refuse other fields than these: for objects that are our own."""
        for name in self.value:
            if name not in known:
                text = f"{self._path or 'The request'} has a field that is not known; known are {', '.join(known)}."
                raise RequestError("FIELD_OUT_OF_RANGE", text, field=self._path)

    def text(self, name: str, *, most_chars: int | None = None) -> str | None:
        """A text."""
        value = self.value.get(name)
        if value is None:
            return None
        if not isinstance(value, str) or (most_chars is not None and len(value) > most_chars):
            limit = "" if most_chars is None else f" of at most {most_chars} characters"
            raise self.wrong(name, f"a text{limit}")
        return value

    def choice(self, name: str, choices: Sequence[str]) -> str | None:
        """One of several texts."""
        value = self.value.get(name)
        if value is None:
            return None
        if value not in choices:
            raise self.wrong(name, f"one of {', '.join(choices)}")
        return str(value)

    def flag(self, name: str) -> bool:
        """True or false; absent is false."""
        value = self.value.get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        """A finite number within a range."""
        value = self.value.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not _within(value, low, high):
            raise self.wrong(name, f"a number between {low:g} and {high:g}")
        return float(value)

    def integer(self, name: str, low: int, high: int) -> int | None:
        """A whole number within a range."""
        value = self.value.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(name, f"a whole number between {low} and {high}")
        return value

    def inner(self, name: str) -> Fields | None:
        """An object."""
        value = self.value.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return Fields(value, self.path(name))

    def array(self, name: str, most: int) -> list[Any] | None:
        """A list of at most so many."""
        value = self.value.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) > most:
            raise self.wrong(name, f"a list of at most {most}")
        return value

    def texts(self, name: str, most: int) -> tuple[str, ...]:
        """One text or a list of texts; absent is none."""
        value = self.value.get(name)
        if isinstance(value, str):
            return (value,)
        values = self.array(name, most) or []
        if not all(isinstance(one, str) for one in values):
            raise self.wrong(name, f"a text or a list of at most {most} texts")
        return tuple(values)

    def wrong(self, name: str, right: str) -> RequestError:
        """The error of a field that should be something else."""
        path = self.path(name)
        return RequestError("FIELD_OUT_OF_RANGE", f"{path} must be {right}.", field=path)


def _within(value: float, low: float, high: float) -> bool:
    # An integer may be too large for a float.
    return math.isfinite(value) and low <= value <= high if isinstance(value, float) else low <= value <= high
