"""Which experts are in memory, and which must leave when another wants in: least recently used first. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass
class Place:
    """One expert on the shelf.

    Attributes:
        size_bytes: What it takes while it is loaded.
        users: Pieces of work that run on it; it cannot leave while there are any.
        used_s: When it was last used, monotonic.
        ttl_s: Idle seconds after which it leaves by itself; infinite for never.
    """

    size_bytes: int
    loaded: bool = False
    pinned: bool = False
    users: int = 0
    used_s: float = -math.inf
    ttl_s: float = math.inf


class Shelf:
    """A budget of bytes and what lies in it.

    Args:
        budget_bytes: What all loaded experts may take together.
        sizes: Bytes of every expert.
        ttl_s: Idle seconds after which an expert leaves that nobody gave others.
    """

    def __init__(self, budget_bytes: int, sizes: Mapping[str, int], *, ttl_s: float = math.inf) -> None:
        self.budget_bytes = budget_bytes
        self._ttl_s = ttl_s
        self.places = {key: Place(size, ttl_s=ttl_s) for key, size in sizes.items()}

    def put(self, key: str, size_bytes: int) -> None:
        """One more expert, not loaded; anew where it was lost."""
        self.places[key] = Place(size_bytes, ttl_s=self._ttl_s)

    @property
    def used_bytes(self) -> int:
        """What is loaded."""
        return sum(place.size_bytes for place in self.places.values() if place.loaded)

    def leavers(self, key: str) -> list[str] | None:
        """Who must leave so that `key` fits, the longest unused first; None where those who may leave do not suffice.

        Pinned experts and those at work stay.
        """
        missing = self.used_bytes + self.places[key].size_bytes - self.budget_bytes
        leaving: list[str] = []
        for other in sorted(self._idle(), key=lambda name: self.places[name].used_s):
            if missing <= 0:
                break
            if other != key:
                leaving.append(other)
                missing -= self.places[other].size_bytes
        return leaving if missing <= 0 else None

    def could_fit(self, key: str) -> bool:
        """Whether `key` fits once what runs has ended: only pins are in its way."""
        pinned = sum(one.size_bytes for name, one in self.places.items() if one.loaded and one.pinned and name != key)
        return pinned + self.places[key].size_bytes <= self.budget_bytes

    def expired(self, now_s: float) -> list[str]:
        """Experts that nobody has used for as long as they may idle."""
        return [name for name in self._idle() if now_s - self.places[name].used_s >= self.places[name].ttl_s]

    def _idle(self) -> list[str]:
        return [name for name, one in self.places.items() if one.loaded and not one.pinned and not one.users]
