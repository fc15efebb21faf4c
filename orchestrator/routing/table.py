"""Routes bound to arms: a route names experts, an arm is where one of them runs.

Shape letters: n arms, r bound routes, m model routes, s stages, f arms side by side in one stage, g different stages, k
two figures (joules and milliseconds, or typical and bound). Absent stages and places are padded with arm 0 and masked
out, so that one query is a handful of array operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from optimizer.deciding.model import Estimate
from optimizer.deciding.promise import Offer
from optimizer.routes.route import Fusion, Route
from orchestrator.fleet.arms import ArmBoard
from orchestrator.fleet.changes import Changes
from orchestrator.routing.binding import BoundRoute, Footing
from orchestrator.routing.stages import Stages
from orchestrator.routing.text_figures import Columns, TextColumns
from orchestrator.routing.turns import Together, mixes
from orchestrator.types import Arm

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

# Stand for versions of the waits: none is up to date, and no arm has any.
STALE, UNLOADED = -2, -1
# Shorter tables are worked out anew faster than by what changed of them.
LONG_ROUTES = 128
# The same holds where more than this share of a long one's arms has changed.
MOST_CHANGED_FRACTION = 0.1


class RouteTable:
    """Bound routes of one task as arrays; immutable but for what it caches of the board."""

    def __init__(self, bound: Sequence[BoundRoute], board: ArmBoard, footing: Footing | None = None) -> None:
        self.bound = tuple(bound)
        # What it was made for; as long as that is the same, so is the table.
        self.footing = footing
        self._board: Columns = board
        self._states = board.states
        self.model_m = np.array([route.model_index for route in bound], dtype=np.intp)
        # What bindings of one model route have in common is asked of that route.
        self._routes = {route.model_index: route.route for route in bound}
        self.experts_r = self._of_each(lambda route: len(route.experts))
        self.most_experts = int(self.experts_r.max(initial=0))
        stages = max((len(route.stages) for route in self._routes.values()), default=1)
        places = max((len(stage) for route in self._routes.values() for stage in route.stages), default=1)
        shape = (len(bound), stages, places)
        self._arms_rsf = np.zeros(shape, dtype=np.intp)
        self._mask_rsf = np.zeros(shape)
        firsts = [route.arms[0][0] for route in bound]
        self._arms_rsf[:, 0, 0], self._mask_rsf[:, 0, 0] = firsts, 1.0
        for r in np.flatnonzero(self.experts_r > 1).tolist():
            self._place(r, self.bound[r])
        self._absent_rsf = self._mask_rsf == 0
        self._stages = Stages([route.arms for route in self.bound], board, shape[1:])
        # Routes that may stop before their end: what is expected of them hangs on the query.
        self._staged = np.flatnonzero(self._of_each(lambda route: len(route.stages) > 1))
        self._is_long = len(bound) >= LONG_ROUTES
        # Where every route is one arm: which. Then nothing is added up over stages or arms side by side.
        self._arm_r = self._arms_rsf[:, 0, 0].copy() if shape[1:] == (1, 1) else None
        # The same as plain numbers.
        self.lone_arms: list[int] | None = None if self._arm_r is None else self._arm_r.tolist()
        together = np.flatnonzero(self._of_each(lambda route: route.writes_together))
        self._together = Together(together, [self.bound[r].route for r in together], places)
        self.mixing = np.array([mixes(board.states[arm].arm) for arm in firsts], dtype=bool) & (self.experts_r == 1)
        self._alone: dict[str, list[int]] = {}
        for m, route in self._routes.items():
            if route.is_single:
                self._alone.setdefault(route.experts[0], []).append(m)
        self._uses: dict[str, Bools] = {}
        self._uses_none = np.zeros(len(bound), dtype=bool)
        # What was estimated last and its values by bound route; the same on whatever figures, so that copies share it.
        self._qualities: list[Floats] = []
        self._forget()

    def _of_each(self, value: Callable[[Route], int]) -> Indices:
        """A value of each bound route (r) that is the same for all bindings of a model route."""
        value_m = np.zeros(max(self._routes, default=-1) + 1, dtype=np.intp)
        for m, route in self._routes.items():
            value_m[m] = value(route)
        return value_m.take(self.model_m)

    def _forget(self) -> None:
        shape = self._arms_rsf.shape
        self._energy_version = self._latency_version = self._available_version = -1
        self._wait_version = STALE
        self._expected_krs = np.zeros((2, *shape[:2]))
        self._energy_bound_r = self._latency_bound_r = np.zeros(shape[0])
        self._first: dict[int, int | None] = {}
        self._available = np.zeros(shape[0], dtype=bool)

    def priced(self, figures: Columns) -> RouteTable:
        """The same routes on other figures; of one text see `routing.lone`."""
        # What `copy` does, without looking for other ways to do it: every text has its own.
        other = RouteTable.__new__(RouteTable)
        other.__dict__ = self.__dict__.copy()
        other._board = figures
        other._stages = self._stages.fresh() if self._arm_r is None or self._is_long else self._stages
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
        free_r = np.ones(len(self.bound), dtype=bool)
        free_r[self._routes_with(arms)] = False
        return free_r

    def unloaded_ms(self, *, typical: bool = False) -> Floats:
        """Bound on each route's milliseconds if no arm had work waiting; or what it takes typically."""
        service_ms_n = self._board.service_ms_n if typical else self._board.service_bound_ms_n
        return np.asarray(self._stages.unloaded(service_ms_n).sum(axis=1))

    def load_ms(self) -> Floats | None:
        """Milliseconds (r) in which each route loads experts that are not in memory; None where all are."""
        load_ms_n = self._board.load_ms_n
        if not np.count_nonzero(load_ms_n):
            return None
        return np.asarray((load_ms_n[self._arms_rsf] * self._mask_rsf).max(axis=2).sum(axis=1))

    def away(self, r: int) -> list[Arm]:
        """A route's arms that are not in memory."""
        arms = [self._states[index].arm for stage in self.bound[r].arms for index in stage]
        return [arm for arm in arms if arm.residency is not None and arm.residency.away]

    def cached_tokens(self) -> Floats | None:
        """Tokens (r) of a text that each route's experts need not read again, typically; None for what is no text."""
        if not isinstance(self._board, TextColumns):
            return None
        return np.asarray((self._board.cached_tokens_n[self._arms_rsf] * self._mask_rsf).sum(axis=(1, 2)))

    def has(self, expert: str) -> bool:
        """Whether some route runs this expert and no other."""
        return expert in self._alone

    def uses(self, expert: str) -> Bools:
        """Routes that run this expert and no other."""
        if expert not in self._alone:
            return self._uses_none
        if expert not in self._uses:
            self._uses[expert] = np.isin(self.model_m, self._alone[expert])
        return self._uses[expert]

    def fused_as(self, *kinds: Fusion) -> Bools:
        """Routes with one of these fusions."""
        return self._of_each(lambda route: route.fusion in kinds).astype(bool)

    def offer(self, estimate: Estimate, allowed_r: Bools | None = None, *, admitted: bool = False) -> Offer:
        """What every bound route promises for a query now.

        Args:
            estimate: Of the task's model for this query; quality per model route, reach per model route and stage.
            allowed_r: Routes that may run; None lets all.
            admitted: Whether the query is under way already: only nodes whose queues are full do not take it.
        """
        self._follow_energy()
        self._follow_latency()
        self._follow_availability()
        available_r = self._availability(slice(None), admitted=True) if admitted else self._available
        if self._is_long or self._arm_r is not None:
            expected_kr = self._expected(estimate.reach_rs)
        else:
            # Not every stage runs: expected figures weigh it by the chance that it is reached.
            reach_rs = estimate.reach_rs.take(self.model_m, axis=0)[:, : self._expected_krs.shape[2]]
            expected_kr = np.vecdot(self._expected_krs, reach_rs)
        return Offer(
            quality_r=self._quality(estimate.quality_r),
            energy_r=expected_kr[0],
            energy_bound_r=self._energy_bound_r,
            latency_r=expected_kr[1],
            latency_bound_r=self._latency_bound_r,
            available_r=available_r if allowed_r is None else available_r & allowed_r,
        )

    def _quality(self, quality_m: Floats) -> Floats:
        """Of each bound route; what was announced is the same for every query."""
        if not self._qualities or self._qualities[0] is not quality_m:
            self._qualities[:] = quality_m, quality_m.take(self.model_m)
        return self._qualities[1]

    def _expected(self, reach_ms: Floats) -> Floats:
        """Joules and milliseconds where most routes are single experts on their many nodes: a first stage always
        runs."""
        expected_krs = self._expected_krs
        expected_kr = expected_krs[:, :, 0].copy()
        if len(self._staged):
            reach_rs = reach_ms.take(self.model_m[self._staged], axis=0)[:, : expected_krs.shape[2]]
            expected_kr[:, self._staged] = np.vecdot(expected_krs[:, self._staged], reach_rs)
        return expected_kr

    def cheapest_by_model(self, quality_r: Floats, energy_r: Floats) -> tuple[Floats, Floats]:
        """Of each model route the binding with the fewest joules: no price makes another one the better choice.

        Args:
            quality_r: The same for all bindings of a model route, or minus infinity where one may not be taken.
            energy_r: Expected joules.

        Returns:
            Quality and joules, one of each per model route.
        """
        first_m = self._first_bindings
        if not len(first_m):
            return quality_r, energy_r
        taken_r = np.where(quality_r > -np.inf, energy_r, np.inf)
        least_m = np.minimum.reduceat(taken_r, first_m)
        # Joules of what may not be taken must be finite.
        return np.maximum.reduceat(quality_r, first_m), np.where(least_m < np.inf, least_m, 0.0)

    @cached_property
    def _first_bindings(self) -> Indices:
        """Bindings of one model route stand together, see `bind`."""
        return np.flatnonzero(np.diff(self.model_m, prepend=-1))

    # What follows changes with the board, not with the query: it is kept, and what changed on the board since is
    # brought up to date. Offers keep the arrays that they were made of, so those are replaced and never written to.

    def _changed_routes(self, changes: Changes, seen: int) -> Indices | None:
        """Routes of the arms that changed since; None where going through all of them is as good."""
        arms = changes.since(seen) if self._is_long else None
        if arms is None or len(arms) > MOST_CHANGED_FRACTION * len(self.bound):
            return None
        return self._routes_with(arms)

    def _routes_with(self, arms: Iterable[int]) -> Indices:
        found = {r for arm in arms for r in self._routes_of.get(arm, ())}
        return np.fromiter(sorted(found), dtype=np.intp, count=len(found))

    @cached_property
    def _routes_of(self) -> dict[int, list[int]]:
        """Routes by arm."""
        found: dict[int, list[int]] = {}
        for r, route in enumerate(self.bound):
            for arm in {arm for stage in route.arms for arm in stage}:
                found.setdefault(arm, []).append(r)
        return found

    def _follow_energy(self) -> None:
        changes = self._board.energy_changes
        if self._energy_version == changes.version:
            return
        routes = self._changed_routes(changes, self._energy_version)
        self._energy_version = changes.version
        self._first.clear()
        if routes is None:
            self._expected_krs[0], self._energy_bound_r = self._energies(slice(None))
            self._price_turns(0, self._energy_bound_r)
        elif len(routes):
            self._energy_bound_r = self._energy_bound_r.copy()
            self._expected_krs[0, routes], self._energy_bound_r[routes] = self._energies(routes)

    def _energies(self, routes: Indices | slice) -> tuple[Floats, Floats]:
        """Expected joules of each stage of these routes, and the bound of each route."""
        board = self._board
        if self._arm_r is not None:
            arm_r = self._arm_r[routes]
            return board.energy_j_n[arm_r][:, None], board.energy_bound_j_n[arm_r]
        arms_rsf, mask_rsf = self._arms_rsf[routes], self._mask_rsf[routes]
        bound_rsf = np.where(mask_rsf > 0, board.energy_bound_j_n[arms_rsf], 0.0)
        return (board.energy_j_n[arms_rsf] * mask_rsf).sum(axis=2), bound_rsf.sum(axis=(1, 2))

    def _follow_latency(self) -> None:
        board = self._board
        service, waits = board.latency_changes.version, board.wait_changes.version
        if not self._is_long and not board.loaded:
            # Where no arm has a wait, the waits of that moment are one version, whatever they were in between.
            waits = UNLOADED
        if self._latency_version == service and self._wait_version == waits:
            return
        if not (self._is_long and self._follow_some_latencies()):
            self._follow_all_latencies()
        self._latency_version, self._wait_version = service, waits

    def _follow_all_latencies(self) -> None:
        board = self._board
        if self._arm_r is not None:
            self._follow_lone_latencies(board, self._arm_r)
            return
        if self._latency_version != board.latency_changes.version:
            self._stages.take(board.service_ms_n, board.service_bound_ms_n)
        latency_krs = self._stages.latencies((board.wait_ms_n, board.wait_bound_ms_n) if board.loaded else None)
        self._expected_krs[1] = latency_krs[0]
        self._latency_bound_r = latency_krs[1].sum(axis=1)
        self._price_turns(1, self._latency_bound_r)

    def _follow_lone_latencies(self, board: Columns, arm_r: Indices) -> None:
        typical_r, bound_r = board.service_ms_n[arm_r], board.service_bound_ms_n[arm_r]
        if board.loaded:
            typical_r += board.wait_ms_n[arm_r]
            bound_r += board.wait_bound_ms_n[arm_r]
        self._expected_krs[1, :, 0], self._latency_bound_r = typical_r, bound_r

    def _price_turns(self, k: int, bound_r: Floats) -> None:
        """Joules (k = 0) or milliseconds (1) of texts that are written together, where what one text costs is known."""
        rates, rows = self._board.turns, self._together.rows
        if rates is not None and len(rows):
            typical_kr, bound_kr = self._together.price(rates, self._arms_rsf[rows, 0])
            self._expected_krs[k, rows, 0], bound_r[rows] = typical_kr[k], bound_kr[k]

    def _follow_some_latencies(self) -> bool:
        """Only those of arms that changed; false where going through all of them is as good."""
        board = self._board
        slower = board.latency_changes.since(self._latency_version)
        later = board.wait_changes.since(self._wait_version)
        if slower is None or later is None or len(slower) + len(later) > MOST_CHANGED_FRACTION * len(self.bound):
            return False
        arms = slower | later
        if self._lone is not None:
            self._retake_lone(arms, self._lone)
        elif len(routes := self._routes_with(arms)):
            waits = board.wait_ms_n, board.wait_bound_ms_n
            self._stages.retake(arms, board.service_ms_n, board.service_bound_ms_n, waits=waits)
            latency_krs = self._stages.of(routes)
            self._expected_krs[1, routes] = latency_krs[0]
            self._latency_bound_r = self._latency_bound_r.copy()
            self._latency_bound_r[routes] = latency_krs[1].sum(axis=1)
        return True

    @cached_property
    def _lone(self) -> dict[int, int] | None:
        """Where every route is one arm and every arm one route, as in a large fleet of single experts: which is which.

        Then what changed is a handful of numbers, sooner written one by one than gathered for operations on arrays.
        """
        if self._arms_rsf.shape[1:] != (1, 1):
            return None
        found = {int(arm): r for r, arm in enumerate(self._arms_rsf[:, 0, 0])}
        return found if len(found) == len(self.bound) else None

    def _retake_lone(self, arms: set[int], route_of: dict[int, int]) -> None:
        board, typical_r = self._board, self._expected_krs[1, :, 0]
        bound_r = self._latency_bound_r = self._latency_bound_r.copy()
        for arm in arms:
            if (r := route_of.get(arm)) is not None:
                typical_r[r] = board.service_ms_n[arm] + board.wait_ms_n[arm]
                bound_r[r] = board.service_bound_ms_n[arm] + board.wait_bound_ms_n[arm]

    def _follow_availability(self) -> None:
        changes = self._board.available_changes
        if self._available_version == changes.version:
            return
        routes = self._changed_routes(changes, self._available_version)
        self._available_version = changes.version
        if routes is None:
            self._available = self._availability(slice(None))
        elif len(routes):
            self._available = self._available.copy()
            self._available[routes] = self._availability(routes)

    def _availability(self, routes: Indices | slice, *, admitted: bool = False) -> Bools:
        board = self._board
        arms = self._arms_rsf[routes] if self._arm_r is None else self._arm_r[routes]
        closed_ms = board.closed_ms_n[arms]
        takes = board.available_n[arms] & (closed_ms < np.inf if admitted else closed_ms == 0.0)
        if self._arm_r is not None:
            return np.asarray(takes)
        return np.asarray((takes | self._absent_rsf[routes]).all(axis=(1, 2)))

    def crowded(self) -> Bools:
        """Routes whose nodes are all there, and of which one takes nothing new."""
        present_rsf = self._board.available_n[self._arms_rsf] | self._absent_rsf
        return np.asarray(present_rsf.all(axis=(1, 2)) & (self.closed_ms() > 0.0))

    def closed_ms(self) -> Floats:
        """For how long each route's nodes take nothing new; infinite where a queue is full."""
        return np.asarray(np.where(self._absent_rsf, 0.0, self._board.closed_ms_n[self._arms_rsf]).max(axis=(1, 2)))

    def arms_of(self, routes: Bools) -> Indices:
        """All arms of these routes, each once."""
        return np.bincount(self._arms_rsf[routes][self._mask_rsf[routes] > 0.0]).nonzero()[0]
