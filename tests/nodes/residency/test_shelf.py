"""Who leaves the memory when another wants in."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from nodes.residency.shelf import Shelf


def a_shelf(budget: int, ttl_s: float = math.inf, **loaded: float) -> Shelf:
    """Experts of ten bytes each; `loaded` says when each was last used."""
    shelf = Shelf(budget, dict.fromkeys([*loaded, "new"], 10), ttl_s=ttl_s)
    for name, used_s in loaded.items():
        shelf.places[name].loaded, shelf.places[name].used_s = True, used_s
    return shelf


def test_the_longest_unused_leave_and_no_more_than_must() -> None:
    assert a_shelf(40, a=1, b=2, c=3).leavers("new") == []
    assert a_shelf(30, a=3, b=1, c=2).leavers("new") == ["b"]
    assert a_shelf(20, a=3, b=1, c=2).leavers("new") == ["b", "c"]


def test_pinned_experts_and_those_at_work_stay() -> None:
    shelf = a_shelf(20, a=1, b=2)
    shelf.places["a"].pinned = True
    assert shelf.leavers("new") == ["b"]
    shelf.places["b"].users = 1
    assert shelf.leavers("new") is None
    assert shelf.could_fit("new")
    shelf.places["b"].pinned = True
    assert not shelf.could_fit("new")


def test_an_idle_expert_leaves_after_its_time_and_a_pinned_one_never() -> None:
    shelf = a_shelf(40, ttl_s=5.0, a=1, b=2, c=1)
    shelf.places["c"].pinned = True
    assert shelf.expired(5.9) == []
    assert shelf.expired(6.0) == ["a"]
    shelf.places["a"].ttl_s = 100.0
    assert shelf.expired(8.0) == ["b"]


@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=6),
    asked=st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40),
)
def test_whatever_is_asked_for_the_budget_holds(sizes: list[int], asked: list[tuple[int, bool]]) -> None:
    shelf = Shelf(50, {str(n): size for n, size in enumerate(sizes)})
    for at, (n, pinned) in enumerate(asked):
        key = str(n % len(sizes))
        if not shelf.places[key].loaded and (leaving := shelf.leavers(key)) is not None:
            for other in leaving:
                assert not shelf.places[other].pinned
                shelf.places[other].loaded = False
            shelf.places[key].loaded = True
        shelf.places[key].used_s = at
        shelf.places[key].pinned = pinned and shelf.places[key].loaded
        assert shelf.used_bytes <= 50
