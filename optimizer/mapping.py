"""Many independent pieces of work, done by whoever the caller brings: this leaf starts no processes itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Mapper(Protocol):
    """Does the pieces, anywhere and in any order, and gives their results in the order of the items."""

    def __call__(self, function: Callable[[Item], Result], items: Sequence[Item], what: str) -> list[Result]:
        """The results.

        Args:
            function: A function at the top of a module, or a `functools.partial` of one; changes none of its arguments.
            items: Plain values or arrays.
            what: One piece in one word, for people who watch.
        """
        ...


def in_turn(function: Callable[[Item], Result], items: Sequence[Item], what: str) -> list[Result]:  # noqa: ARG001
    """Do them here, one after the other, and say nothing."""
    return [function(item) for item in items]
