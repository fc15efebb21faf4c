"""What workers promise: the results of a plain loop, to the last bit, whoever computed them and whoever died meanwhile.

For that, every item is computed by itself, on one thread, from its own seed; what a worker began and did not end is
computed again from the start. Bits are the same where libraries and the kind of processor are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from orchestrator.placement.errors import PlacementError

Item = TypeVar("Item")
Result = TypeVar("Result")
# Called with how many of how many items are done.
Progress = Callable[[int, int], None]

RETRY = 2
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Workers(Protocol):
    """Somewhere to compute."""

    def map(
        self,
        function: Callable[..., Result],
        items: Sequence[Item],
        *,
        seed: int | None = None,
        progress: Progress | None = None,
        retry: int = RETRY,
    ) -> list[Result]:
        """The results for all items, in their order.

        Args:
            function: Found by its module and name, or a `functools.partial` of such a one, whose arguments go to every
                worker once. Called with an item, and with its seed where there is one. Must not change its arguments.
            items: Plain values, arrays, or frozen dataclasses of them.
            seed: Of the items' own seeds, see `seed_of`; None gives them none.
            progress: Told after each item, in the order in which they come.
            retry: How often an item is computed again because its worker died.

        Raises:
            PlacementError: Workers died too often, the cluster is lost, or the function cannot be found by name.
            Exception: What the function raised for an item; the others' results are lost.
        """
        ...


def seed_of(seed: int | None, index: int) -> int | None:
    """The seed of an item: depends on nothing but the two numbers."""
    if seed is None:
        return None
    # Where threads are limited, they are before this is imported.
    import numpy as np

    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


def run(function: Callable[..., Result], item: Any, seed: int | None) -> Result:
    """One item, in whichever process."""
    return function(item) if seed is None else function(item, seed)


def check_function(function: Callable[..., Any]) -> None:
    """Refuse a function that other processes cannot find.

    Raises:
        PlacementError: It is a lambda, is local to another function, or was typed in.
    """
    inner = getattr(function, "func", function)
    name, module = getattr(inner, "__qualname__", "<lambda>"), getattr(inner, "__module__", "__main__")
    if "<" in name or module == "__main__":
        cure = "move it to the top of a module"
        raise PlacementError(f"{name} cannot be found by its name in another process", cure, what="no work for workers")


def died_too_often(count: int, cure: str) -> PlacementError:
    """The error of work whose workers do not live long enough."""
    return PlacementError(f"workers died {count} times over the same work", cure, what="work given up")
