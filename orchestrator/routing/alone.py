"""Whether one expert alone was the best choice for a request, or several together: told in so many words. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


class Considered(Protocol):
    """A route that was considered: its name, whether it fits, and its quality less the price of its joules."""

    @property
    def route(self) -> str: ...
    @property
    def feasible(self) -> bool: ...
    @property
    def score(self) -> float: ...


@dataclass(frozen=True)
class Verdict:
    """One expert alone against the best that several could have done together.

    Args:
        alone: Whether what was chosen is one expert.
        rival: The best route of the other kind that fits; "" where none does.
        worth_more: By how much the chosen route is worth more than that, in shares of right answers after the price of
            joules; 0 where there is none. Negative where the choice was not the gateway's own.
    """

    alone: bool
    rival: str
    worth_more: float


def verdict(chosen: str, candidates: Iterable[Considered]) -> Verdict | None:
    """What the choice says of combining; None where nothing was chosen, or nothing could have been combined."""
    listed = list(candidates)
    mine = next((one for one in listed if one.route == chosen), None)
    if mine is None or not any(combines(one.route) for one in listed):
        return None
    alone = not combines(chosen)
    rivals = [one for one in listed if one.feasible and combines(one.route) is alone]
    best = max(rivals, key=lambda one: one.score, default=None)
    return Verdict(alone, "", 0.0) if best is None else Verdict(alone, best.route, mine.score - best.score)


def combines(route: str) -> bool:
    """Whether a route is more than one expert; names of experts hold neither of these signs."""
    return "+" in route or ">" in route
