"""Routes bound to arms: a route names experts, an arm is where one of them runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from optimizer.routes.route import Fusion, Route
from orchestrator.fleet.arms import ArmBoard, ArmState
from orchestrator.routing.turns import hears_bytes, vocabulary
from orchestrator.types import Arm

# The arms (indices on the board) of a route's experts, stage by stage.
Placed = tuple[tuple[int, ...], ...]
ByExpert = dict[str, list[ArmState]]
# Of an expert's arms the one with the fewest joules, and the fastest.
Best = tuple[int, int]


@dataclass(frozen=True)
class BoundRoute:
    """A route with one arm (index on the board) for each of its experts, stage by stage."""

    route: Route
    model_index: int
    arms: Placed
    name: str

    @property
    def experts(self) -> int:
        """How many experts may run."""
        return len(self.route.experts)

    @cached_property
    def alone(self) -> int | None:
        """The arm where one expert is all of the route; None for every other one."""
        one = len(self.arms) == len(self.arms[0]) == 1 and self.route.fusion is Fusion.NONE
        return self.arms[0][0] if one else None


@dataclass(frozen=True)
class Footing:
    """What a binding rests on: as long as that is the same, so is the binding.

    Args:
        routes: What is bound.
        arms: As announced, in the order of the board.
        longer: Where each route of several experts is placed, with its place among the routes.
    """

    routes: tuple[Route, ...]
    arms: tuple[Arm, ...]
    longer: tuple[tuple[int, Placed], ...]


def footing(routes: tuple[Route, ...], arms: Sequence[ArmState], board: ArmBoard) -> Footing:
    """What `bind` makes of these. Cheaper than these, as it makes nothing of single experts."""
    return Footing(routes, tuple(state.arm for state in arms), _longer(routes, _by_expert(arms), board))


def bind(routes: Sequence[Route], arms: Sequence[ArmState], board: ArmBoard) -> list[BoundRoute]:
    """Every route that the arms can serve: single experts on each of their arms, longer routes on the arms with the
    fewest joules and on the fastest arms."""
    by_expert = _by_expert(arms)
    longer: dict[int, list[Placed]] = {}
    for index, placed in _longer(routes, by_expert, board):
        longer.setdefault(index, []).append(placed)
    bound: list[BoundRoute] = []
    for index, route in enumerate(routes):
        if route.is_single:
            states = by_expert.get(route.experts[0], ())
            bound += [BoundRoute(route, index, ((state.index,),), state.arm.name) for state in states]
        else:
            places = longer.get(index, ())
            bound += [BoundRoute(route, index, placed, _name(route, placed, board)) for placed in places]
    return bound


def _by_expert(arms: Sequence[ArmState]) -> ByExpert:
    by_expert: ByExpert = {}
    for state in arms:
        by_expert.setdefault(state.arm.expert, []).append(state)
    return by_expert


def _longer(routes: Sequence[Route], by_expert: ByExpert, board: ArmBoard) -> tuple[tuple[int, Placed], ...]:
    """Where each route of several experts is placed, each place once."""
    found: dict[tuple[int, Placed], None] = {}
    best: dict[str, Best] = {}
    for index, route in enumerate(routes):
        if route.is_single or any(expert not in by_expert for expert in route.experts):
            continue
        if route.writes_together:
            able = _of_one_vocabulary(route, by_expert) if route.fusion is Fusion.TOKEN else _of_bytes(route, by_expert)
            found |= _places(index, route, {expert: _best(states, board) for expert, states in able.items()})
            continue
        # Many routes share their experts.
        best |= {expert: _best(by_expert[expert], board) for expert in route.experts if expert not in best}
        found |= _places(index, route, best)
    return tuple(found)


def _best(states: Sequence[ArmState], board: ArmBoard) -> Best:
    indices = [state.index for state in states]
    thriftiest, fastest = (int(figure_n[indices].argmin()) for figure_n in (board.energy_j_n, board.service_ms_n))
    return indices[thriftiest], indices[fastest]


def _places(index: int, route: Route, best: dict[str, Best]) -> dict[tuple[int, Placed], None]:
    """On the thriftiest arms and on the fastest; nowhere where there are none."""
    rules = range(2) if best else ()
    return {(index, tuple(tuple(best[e][rule] for e in stage) for stage in route.stages)): None for rule in rules}


def _of_one_vocabulary(route: Route, by_expert: ByExpert) -> ByExpert:
    """The arms of these experts that can write one text in turns; none where some expert has none."""
    first = by_expert[route.experts[0]]
    for digest in sorted({vocabulary(state.arm) for state in first} - {""}):
        found = {e: [one for one in by_expert[e] if vocabulary(one.arm) == digest] for e in route.experts}
        if all(found.values()):
            return found
    return {}


def _of_bytes(route: Route, by_expert: ByExpert) -> ByExpert:
    """The arms of these experts that write with those of other vocabularies; none where some expert has none."""
    found = {e: [one for one in by_expert[e] if hears_bytes(one.arm)] for e in route.experts}
    return found if all(found.values()) else {}


def _name(route: Route, placed: Placed, board: ArmBoard) -> str:
    text = "+".join(board.states[index].arm.name for index in placed[0])
    for threshold, stage in zip(route.continue_below, placed[1:], strict=True):
        text += f" >{threshold:g}> " + "+".join(board.states[index].arm.name for index in stage)
    return text if route.fusion is Fusion.NONE else f"{text} ({route.fusion.value})"
