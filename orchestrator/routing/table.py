"""Routes bound to arms: a route names experts, an arm is where one of them runs.

Shape letters: n arms, r bound routes, m model routes, s stages, f arms side by side in one stage. Absent stages and
places are padded with arm 0 and masked out, so that one query is a handful of array operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.choose import Offer
from optimizer.model import Estimate
from optimizer.routes import Fusion, Route
from orchestrator.fleet.arms import ArmBoard, ArmState

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


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
        self._board = board
        self.model_m = np.array([route.model_index for route in bound], dtype=np.intp)
        stages = max((len(route.arms) for route in bound), default=1)
        places = max((len(stage) for route in bound for stage in route.arms), default=1)
        shape = (len(bound), stages, places)
        self._arms_rsf = np.zeros(shape, dtype=np.intp)
        self._mask_rsf = np.zeros(shape)
        self._serial_rs = np.zeros(shape[:2], dtype=bool)
        for r, route in enumerate(bound):
            self._place(r, route)
        self._absent_rsf = self._mask_rsf == 0
        self.experts_r = np.array([route.experts for route in bound], dtype=np.intp)
        self.most_experts = int(self.experts_r.max(initial=0))
        self._fusions = np.array([route.route.fusion.value for route in bound])
        self._uses = {
            expert: np.array([route.route.experts == (expert,) for route in bound], dtype=bool)
            for expert in {expert for route in bound for expert in route.route.experts}
        }
        self._alone = frozenset(route.route.experts[0] for route in bound if route.route.is_single)
        self._uses_none = np.zeros(len(bound), dtype=bool)
        self._energy_version = self._latency_version = self._available_version = -1
        self._loaded_version = (-1, -1)
        self._energy = self._latency = self._loaded = np.zeros(shape[:2]), np.zeros(shape[0])
        self._available = np.zeros(shape[0], dtype=bool)

    def _place(self, r: int, route: BoundRoute) -> None:
        for s, stage in enumerate(route.arms):
            self._arms_rsf[r, s, : len(stage)] = stage
            self._mask_rsf[r, s, : len(stage)] = 1.0
            nodes = [self._board.states[index].arm.node for index in stage]
            # Arms that share a node may wait for each other: count their times one after the other.
            self._serial_rs[r, s] = len(set(nodes)) < len(nodes)

    def first_of(self, model_index: int) -> int | None:
        """The binding of a model route that has the fewest joules; None where it has no arms."""
        found = np.flatnonzero(self.model_m == model_index)
        if not found.size:
            return None
        return int(found[np.argmin(self._energies()[0][found].sum(axis=1))])

    def avoiding(self, arms: frozenset[int]) -> Bools:
        """Routes that run none of these arms."""
        hit_rsf = np.isin(self._arms_rsf, list(arms)) & (self._mask_rsf > 0)
        return np.logical_not(hit_rsf.any(axis=(1, 2)))

    def unloaded_ms(self) -> Floats:
        """Bound on each route's milliseconds if no arm had work waiting."""
        return self._latencies_with(np.zeros_like(self._board.wait_ms_n))[1]

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
        energy_rs, energy_bound_r = self._energies()
        latency_rs, latency_bound_r = self._latencies()
        available_r = self._availability()
        # Not every stage runs: expected figures weigh it by the chance that it is reached.
        reach_rs = estimate.reach_rs[self.model_m, : energy_rs.shape[1]]
        return Offer(
            quality_r=estimate.quality_r[self.model_m],
            energy_r=np.vecdot(energy_rs, reach_rs),
            energy_bound_r=energy_bound_r,
            latency_r=np.vecdot(latency_rs, reach_rs),
            latency_bound_r=latency_bound_r,
            available_r=available_r if allowed_r is None else available_r & allowed_r,
        )

    # What follows changes with the board, not with the query, and is kept until the board says that it did.

    def _energies(self) -> tuple[Floats, Floats]:
        board, mask_rsf = self._board, self._mask_rsf
        if self._energy_version != board.energy_version:
            self._energy_version = board.energy_version
            mean_rs = (board.energy_j_n[self._arms_rsf] * mask_rsf).sum(axis=2)
            bound_rsf = np.where(mask_rsf > 0, board.energy_bound_j_n[self._arms_rsf], 0.0)
            self._energy = mean_rs, bound_rsf.sum(axis=(1, 2))
        return self._energy

    def _latencies(self) -> tuple[Floats, Floats]:
        board = self._board
        if board.loaded:
            version = board.latency_version, board.wait_version
            if self._loaded_version != version:
                self._loaded_version = version
                self._loaded = self._latencies_with(board.wait_ms_n)
            return self._loaded
        if self._latency_version != board.latency_version:
            self._latency_version = board.latency_version
            self._latency = self._latencies_with(np.zeros_like(board.wait_ms_n))
        return self._latency

    def _latencies_with(self, wait_ms_n: Floats) -> tuple[Floats, Floats]:
        typical_rs = self._stage_latency(self._board.service_ms_n, wait_ms_n)
        bound_rs = self._stage_latency(self._board.service_bound_ms_n, wait_ms_n)
        return typical_rs, np.asarray(bound_rs.sum(axis=1))

    def _availability(self) -> Bools:
        if self._available_version != self._board.available_version:
            self._available_version = self._board.available_version
            self._available = (self._board.available_n[self._arms_rsf] | self._absent_rsf).all(axis=(1, 2))
        return self._available

    def _stage_latency(self, service_ms_n: Floats, wait_ms_n: Floats) -> Floats:
        latency_rsf: Floats = (service_ms_n + wait_ms_n)[self._arms_rsf] * self._mask_rsf
        if latency_rsf.shape[2] == 1:
            return latency_rsf[:, :, 0]
        latency_rs: Floats = np.where(self._serial_rs, latency_rsf.sum(axis=2), latency_rsf.max(axis=2))
        return latency_rs
