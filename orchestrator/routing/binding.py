"""Routes bound to arms: a route names experts, an arm is where one of them runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optimizer.routes.route import Fusion, Route
from orchestrator.fleet.arms import ArmBoard, ArmState
from orchestrator.routing.turns import vocabulary


@dataclass(frozen=True)
class BoundRoute:
    """A route with one arm (index on the board) for each of its experts, stage by stage."""

    route: Route
    model_index: int
    arms: tuple[tuple[int, ...], ...]
    name: str

    @property
    def experts(self) -> int:
        """How many experts may run."""
        return len(self.route.experts)


def bind(routes: Sequence[Route], arms: Sequence[ArmState], board: ArmBoard) -> list[BoundRoute]:
    """Every route that the arms can serve: single experts on each of their arms, longer routes on the arms with the
    fewest joules and on the fastest arms."""
    by_expert: dict[str, list[ArmState]] = {}
    for state in arms:
        by_expert.setdefault(state.arm.expert, []).append(state)
    bound: dict[tuple[int, tuple[tuple[int, ...], ...]], BoundRoute] = {}
    for index, route in enumerate(routes):
        if any(expert not in by_expert for expert in route.experts):
            continue
        for placed in _placements(route, by_expert, board):
            bound[index, placed] = BoundRoute(route, index, placed, _name(route, placed, board))
    return list(bound.values())


def _placements(
    route: Route, by_expert: dict[str, list[ArmState]], board: ArmBoard
) -> list[tuple[tuple[int, ...], ...]]:
    if route.is_single:
        return [((state.index,),) for state in by_expert[route.experts[0]]]
    if route.fusion is Fusion.TOKEN:
        by_expert = _of_one_vocabulary(route, by_expert)
        if not by_expert:
            return []
    rules: tuple[Callable[[ArmState], float], ...] = (
        lambda state: float(board.energy_j_n[state.index]),
        lambda state: float(board.service_ms_n[state.index]),
    )
    return [
        tuple(tuple(min(by_expert[expert], key=rule).index for expert in stage) for stage in route.stages)
        for rule in rules
    ]


def _of_one_vocabulary(route: Route, by_expert: dict[str, list[ArmState]]) -> dict[str, list[ArmState]]:
    """The arms of these experts that can write one text in turns; none where some expert has none."""
    first = by_expert[route.experts[0]]
    for digest in sorted({vocabulary(state.arm) for state in first} - {""}):
        found = {e: [one for one in by_expert[e] if vocabulary(one.arm) == digest] for e in route.experts}
        if all(found.values()):
            return found
    return {}


def _name(route: Route, placed: tuple[tuple[int, ...], ...], board: ArmBoard) -> str:
    text = "+".join(board.states[index].arm.name for index in placed[0])
    for threshold, stage in zip(route.continue_below, placed[1:], strict=True):
        text += f" >{threshold:g}> " + "+".join(board.states[index].arm.name for index in stage)
    return text if route.fusion is Fusion.NONE else f"{text} ({route.fusion.value})"
