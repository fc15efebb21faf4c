"""What is frozen for the type checker behaves like a frozen dataclass wherever nobody writes to it."""

from __future__ import annotations

import copy
import pickle
from dataclasses import asdict, dataclass, field, fields, replace

from optimizer.frozen import frozen


@frozen
class Point:
    x: int
    y: float = 2.0
    tags: tuple[str, ...] = ()
    near: dict[str, int] = field(default_factory=dict, compare=False, repr=False)

    @property
    def sum(self) -> float:
        return self.x + self.y


@dataclass(frozen=True)
class Reference:
    x: int
    y: float = 2.0
    tags: tuple[str, ...] = ()


def test_values_are_equal_hashed_and_shown_by_their_fields() -> None:
    point = Point(1, tags=("a",))
    assert point == Point(1, 2.0, ("a",), {"b": 1})
    assert point != Point(2, tags=("a",))
    reference: object = Reference(1, tags=("a",))
    assert point != reference
    assert hash(point) == hash(reference)
    assert {point: "found"}[Point(1, 2.0, ("a",))] == "found"
    assert repr(point) == "Point(x=1, y=2.0, tags=('a',))"
    assert point.sum == 3.0


def test_values_are_replaced_listed_copied_and_sent_to_other_processes() -> None:
    point = Point(1, near={"b": 2})
    assert replace(point, x=3) == Point(3)
    assert asdict(point) == {"x": 1, "y": 2.0, "tags": (), "near": {"b": 2}}
    assert [each.name for each in fields(point)] == ["x", "y", "tags", "near"]
    for other in (pickle.loads(pickle.dumps(point)), copy.deepcopy(point), copy.copy(point)):
        assert other == point
        assert other.near == {"b": 2}


def test_no_value_has_room_for_more_than_its_fields() -> None:
    assert not hasattr(Point(1), "__dict__")
