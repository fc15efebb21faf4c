"""Milliseconds of the stages of bound routes.

Routes share stages, and under load every query changes the waits: so each different stage is worked out once, then
handed to its routes. In a long table only the stages of arms that changed are worked out again.

Shape letters: n arms, r bound routes, s stages, f arms side by side in one stage, g different stages, k typical and
bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from orchestrator.fleet.arms import ArmBoard

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]
Placed = tuple[tuple[int, ...], ...]
# Typical and bounding milliseconds of waiting, each (n).
Waits = tuple[Floats, Floats]


class Stages:
    """Stages of routes, and their milliseconds as of the last look at the board.

    Args:
        placed: The arms of each route, stage by stage.
        board: Where the arms are.
        shape: Most stages of a route, most arms of a stage.
    """

    def __init__(self, placed: Sequence[Placed], board: ArmBoard, shape: tuple[int, int]) -> None:
        stages, places = shape
        self._different = list(dict.fromkeys(stage for route in placed for stage in route))
        different = len(self._different)
        row_of = {stage: g for g, stage in enumerate(self._different)}
        self._arms_gf = np.zeros((different, places), dtype=np.intp)
        self._mask_gf = np.zeros((different, places))
        self._serial_g = np.zeros(different, dtype=bool)
        self._arms_gf[:, 0], self._mask_gf[:, 0] = [stage[0] for stage in row_of], 1.0
        for stage, g in row_of.items():
            if len(stage) > 1:
                self._arms_gf[g, : len(stage)] = stage
                self._mask_gf[g, : len(stage)] = 1.0
                nodes = [board.states[index].arm.node for index in stage]
                # Arms that share a node may wait for each other: count their times one after the other.
                self._serial_g[g] = len(set(nodes)) < len(nodes)
        # One row more than there are stages: what an absent stage takes.
        self._row_rs = np.full((len(placed), stages), different, dtype=np.intp)
        self._row_rs[:, 0] = [row_of[route[0]] for route in placed]
        for r, route in enumerate(placed):
            if len(route) > 1:
                self._row_rs[r, : len(route)] = [row_of[stage] for stage in route]
        self._latency_kg = np.zeros((2, different + 1))
        self._service_kgf = np.zeros((2, *self._arms_gf.shape))

    def fresh(self) -> Stages:
        """The same stages, of which nothing is known yet."""
        other = Stages.__new__(Stages)
        other.__dict__.update(self.__dict__)
        other._latency_kg = np.zeros(self._latency_kg.shape)
        other._service_kgf = np.zeros(self._service_kgf.shape)
        return other

    def take(self, typical_ms_n: Floats, bound_ms_n: Floats) -> None:
        """What each arm takes without a wait, from now on."""
        self._service_kgf[0] = typical_ms_n[self._arms_gf]
        self._service_kgf[1] = bound_ms_n[self._arms_gf]

    def retake(self, arms: set[int], typical_ms_n: Floats, bound_ms_n: Floats, *, waits: Waits) -> None:
        """The same, but only for some arms and with their waits; see `of`."""
        found = {g for arm in arms for g in self._stages_of.get(arm, ())}
        rows = np.fromiter(found, dtype=np.intp, count=len(found))
        arms_gf = self._arms_gf[rows]
        self._service_kgf[0, rows] = typical_ms_n[arms_gf]
        self._service_kgf[1, rows] = bound_ms_n[arms_gf]
        latency_kgf = self._service_kgf[:, rows]
        latency_kgf[0] += waits[0][arms_gf]
        latency_kgf[1] += waits[1][arms_gf]
        self._latency_kg[:, rows] = _folded(latency_kgf, self._mask_gf[rows], self._serial_g[rows])

    def latencies(self, waits: Waits | None) -> Floats:
        """Typical and bounding milliseconds of each stage of each route, (2, r, s)."""
        service_kgf = self._service_kgf
        if waits is not None:
            service_kgf = service_kgf.copy()
            service_kgf[0] += waits[0][self._arms_gf]
            service_kgf[1] += waits[1][self._arms_gf]
        self._latency_kg[:, :-1] = _folded(service_kgf, self._mask_gf, self._serial_g)
        latency_krs: Floats = self._latency_kg.take(self._row_rs, axis=1)
        return latency_krs

    def of(self, routes: Indices) -> Floats:
        """The same for some routes, as they stand."""
        latency_krs: Floats = self._latency_kg.take(self._row_rs[routes], axis=1)
        return latency_krs

    def unloaded(self, bound_ms_n: Floats) -> Floats:
        """Bounding milliseconds of each stage of each route if no arm had work waiting, (r, s)."""
        bound_g = np.zeros(len(self._different) + 1)
        bound_g[:-1] = _folded(bound_ms_n[self._arms_gf][None], self._mask_gf, self._serial_g)[0]
        return bound_g.take(self._row_rs)

    @cached_property
    def _stages_of(self) -> dict[int, list[int]]:
        """Stages by arm."""
        found: dict[int, list[int]] = {}
        for g, stage in enumerate(self._different):
            for arm in stage:
                found.setdefault(arm, []).append(g)
        return found


def _folded(ms_kgf: Floats, mask_gf: Floats, serial_g: Bools) -> Floats:
    """Milliseconds of stages from those of their arms: one after the other on one node, else side by side."""
    masked_kgf = ms_kgf * mask_gf
    if masked_kgf.shape[2] == 1:
        return masked_kgf[:, :, 0]
    folded_kg: Floats = np.where(serial_g, masked_kgf.sum(axis=2), masked_kgf.max(axis=2))
    return folded_kg
