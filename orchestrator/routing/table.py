"""Routes bound to arms: a route names experts, an arm is where one of them runs.

Shape letters: n arms, r bound routes, m model routes, s stages, f arms side by side in one stage, g different stages, k
two figures (joules and milliseconds, or typical and bound). Absent stages and places are padded with arm 0 and masked
out, so that one query is a handful of array operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.deciding.choose import Offer
from optimizer.deciding.model import Estimate
from optimizer.routes.route import Fusion, Route
from orchestrator.fleet.arms import ArmBoard, ArmState
from orchestrator.routing.figures import Figures

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Stand for versions of the waits: none is up to date, and no arm has any.
STALE, UNLOADED = -2, -1


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
    rules: tuple[Callable[[ArmState], float], ...] = (
        lambda state: float(board.energy_j_n[state.index]),
        lambda state: float(board.service_ms_n[state.index]),
    )
    return [
        tuple(tuple(min(by_expert[expert], key=rule).index for expert in stage) for stage in route.stages)
        for rule in rules
    ]


def _name(route: Route, placed: tuple[tuple[int, ...], ...], board: ArmBoard) -> str:
    text = "+".join(board.states[index].arm.name for index in placed[0])
    for threshold, stage in zip(route.continue_below, placed[1:], strict=True):
        text += f" >{threshold:g}> " + "+".join(board.states[index].arm.name for index in stage)
    return text if route.fusion is Fusion.NONE else f"{text} ({route.fusion.value})"


class RouteTable:
    """Bound routes of one task as arrays; immutable but for what it caches of the board."""

    def __init__(self, bound: Sequence[BoundRoute], board: ArmBoard) -> None:
        self.bound = tuple(bound)
        self._board: Figures = board
        self.model_m = np.array([route.model_index for route in bound], dtype=np.intp)
        stages = max((len(route.arms) for route in bound), default=1)
        places = max((len(stage) for route in bound for stage in route.arms), default=1)
        shape = (len(bound), stages, places)
        self._arms_rsf = np.zeros(shape, dtype=np.intp)
        self._mask_rsf = np.zeros(shape)
        for r, route in enumerate(bound):
            self._place(r, route)
        self._absent_rsf = self._mask_rsf == 0
        self._stages = _Stages(self.bound, board, shape[1:])
        self.experts_r = np.array([route.experts for route in bound], dtype=np.intp)
        self.most_experts = int(self.experts_r.max(initial=0))
        self._fusions = np.array([route.route.fusion.value for route in bound])
        self._uses = {
            expert: np.array([route.route.experts == (expert,) for route in bound], dtype=bool)
            for expert in {expert for route in bound for expert in route.route.experts}
        }
        self._alone = frozenset(route.route.experts[0] for route in bound if route.route.is_single)
        self._uses_none = np.zeros(len(bound), dtype=bool)
        self._forget()

    def _forget(self) -> None:
        shape = self._arms_rsf.shape
        self._energy_version = self._latency_version = self._available_version = -1
        self._wait_version = STALE
        self._expected_krs = np.zeros((2, *shape[:2]))
        self._energy_bound_r = self._latency_bound_r = np.zeros(shape[0])
        self._first: dict[int, int | None] = {}
        self._available = np.zeros(shape[0], dtype=bool)

    def priced(self, figures: Figures) -> RouteTable:
        """The same routes on other figures, such as those of one text. Cost: 20 µs."""
        other = copy(self)
        other._board = figures
        other._stages = self._stages.fresh()
        other._forget()
        return other

    def _place(self, r: int, route: BoundRoute) -> None:
        for s, stage in enumerate(route.arms):
            self._arms_rsf[r, s, : len(stage)] = stage
            self._mask_rsf[r, s, : len(stage)] = 1.0

    def first_of(self, model_index: int) -> int | None:
        """The binding of a model route that has the fewest joules; None where it has no arms."""
        self._follow_energy()
        if model_index not in self._first:
            self._first[model_index] = self._find_first(model_index)
        return self._first[model_index]

    def _find_first(self, model_index: int) -> int | None:
        found = np.flatnonzero(self.model_m == model_index)
        if not found.size:
            return None
        return int(found[np.argmin(self._expected_krs[0][found].sum(axis=1))])

    def avoiding(self, arms: frozenset[int]) -> Bools:
        """Routes that run none of these arms."""
        hit_rsf = np.isin(self._arms_rsf, list(arms)) & (self._mask_rsf > 0)
        return np.logical_not(hit_rsf.any(axis=(1, 2)))

    def unloaded_ms(self) -> Floats:
        """Bound on each route's milliseconds if no arm had work waiting."""
        self._follow_service()
        return np.asarray(self._stages.latencies(None)[1].sum(axis=1))

    def has(self, expert: str) -> bool:
        """Whether some route runs this expert and no other."""
        return expert in self._alone

    def uses(self, expert: str) -> Bools:
        """Routes that run this expert and no other."""
        return self._uses.get(expert, self._uses_none)

    def fused_as(self, *kinds: Fusion) -> Bools:
        """Routes with one of these fusions."""
        return np.isin(self._fusions, [kind.value for kind in kinds])

    def offer(self, estimate: Estimate, allowed_r: Bools | None = None) -> Offer:
        """What every bound route promises for a query now.

        Args:
            estimate: Of the task's model for this query; quality per model route, reach per model route and stage.
            allowed_r: Routes that may run; None lets all.
        """
        self._follow_energy()
        self._follow_latency()
        available_r = self._availability()
        # Not every stage runs: expected figures weigh it by the chance that it is reached.
        reach_rs = estimate.reach_rs.take(self.model_m, axis=0)[:, : self._expected_krs.shape[2]]
        expected_kr = np.vecdot(self._expected_krs, reach_rs)
        return Offer(
            quality_r=estimate.quality_r.take(self.model_m),
            energy_r=expected_kr[0],
            energy_bound_r=self._energy_bound_r,
            latency_r=expected_kr[1],
            latency_bound_r=self._latency_bound_r,
            available_r=available_r if allowed_r is None else available_r & allowed_r,
        )

    # What follows changes with the board, not with the query, and is kept until the board says that it did.

    def _follow_energy(self) -> None:
        board, mask_rsf = self._board, self._mask_rsf
        if self._energy_version == board.energy_version:
            return
        self._energy_version = board.energy_version
        self._first.clear()
        self._expected_krs[0] = (board.energy_j_n[self._arms_rsf] * mask_rsf).sum(axis=2)
        bound_rsf = np.where(mask_rsf > 0, board.energy_bound_j_n[self._arms_rsf], 0.0)
        self._energy_bound_r = bound_rsf.sum(axis=(1, 2))

    def _follow_latency(self) -> None:
        self._follow_service()
        # Where no arm has a wait, the waits of that moment are one version, whatever they were in between.
        version = self._board.wait_version if self._board.loaded else UNLOADED
        if self._wait_version == version:
            return
        self._wait_version = version
        latency_krs = self._stages.latencies(self._board.wait_ms_n if self._board.loaded else None)
        self._expected_krs[1] = latency_krs[0]
        self._latency_bound_r = latency_krs[1].sum(axis=1)

    def _follow_service(self) -> None:
        board = self._board
        if self._latency_version == board.latency_version:
            return
        self._latency_version = board.latency_version
        self._stages.take(board.service_ms_n, board.service_bound_ms_n)
        # Whoever follows the latencies must take these up, also where someone else came across them first.
        self._wait_version = STALE

    def _availability(self) -> Bools:
        if self._available_version != self._board.available_version:
            self._available_version = self._board.available_version
            self._available = (self._board.available_n[self._arms_rsf] | self._absent_rsf).all(axis=(1, 2))
        return self._available


class _Stages:
    """Milliseconds of the stages of bound routes. Routes share stages, and under load every query changes the waits:
    so each different stage is worked out once, then handed to its routes."""

    def __init__(self, bound: Sequence[BoundRoute], board: ArmBoard, shape: tuple[int, int]) -> None:
        stages, places = shape
        different = list(dict.fromkeys(stage for route in bound for stage in route.arms))
        row_of = {stage: g for g, stage in enumerate(different)}
        self._arms_gf = np.zeros((len(different), places), dtype=np.intp)
        self._mask_gf = np.zeros((len(different), places))
        self._serial_g = np.zeros(len(different), dtype=bool)
        for stage, g in row_of.items():
            self._arms_gf[g, : len(stage)] = stage
            self._mask_gf[g, : len(stage)] = 1.0
            nodes = [board.states[index].arm.node for index in stage]
            # Arms that share a node may wait for each other: count their times one after the other.
            self._serial_g[g] = len(set(nodes)) < len(nodes)
        # One row more than there are stages: what an absent stage takes.
        self._row_rs = np.full((len(bound), stages), len(different), dtype=np.intp)
        for r, route in enumerate(bound):
            self._row_rs[r, : len(route.arms)] = [row_of[stage] for stage in route.arms]
        self._latency_kg = np.zeros((2, len(different) + 1))
        self._service_kgf = np.zeros((2, *self._arms_gf.shape))

    def fresh(self) -> _Stages:
        """The same stages, of which nothing is known yet."""
        other = copy(self)
        other._latency_kg = np.zeros_like(self._latency_kg)
        other._service_kgf = np.zeros_like(self._service_kgf)
        return other

    def take(self, typical_ms_n: Floats, bound_ms_n: Floats) -> None:
        """What each arm takes without a wait, from now on."""
        self._service_kgf[0] = typical_ms_n[self._arms_gf]
        self._service_kgf[1] = bound_ms_n[self._arms_gf]

    def latencies(self, wait_ms_n: Floats | None) -> Floats:
        """Typical and bounding milliseconds of each stage of each route, (2, r, s)."""
        service_kgf = self._service_kgf if wait_ms_n is None else self._service_kgf + wait_ms_n[self._arms_gf]
        latency_kgf = service_kgf * self._mask_gf
        if latency_kgf.shape[2] == 1:
            self._latency_kg[:, :-1] = latency_kgf[:, :, 0]
        else:
            serial_kg, parallel_kg = latency_kgf.sum(axis=2), latency_kgf.max(axis=2)
            self._latency_kg[:, :-1] = np.where(self._serial_g, serial_kg, parallel_kg)
        latency_krs: Floats = self._latency_kg.take(self._row_rs, axis=1)
        return latency_krs
