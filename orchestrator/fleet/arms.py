"""What the gateway knows of each arm, as arrays that routing reads and results update.

Shape letter: n arms. One task on the event loop owns the board, so there are no locks. Predictions start from what the
node announced and follow what was observed: round-trip time per arm, the ratio of actual to predicted joules per node
(a sensor's or a profile's error belongs to the device, so arms of a node share it and learn it sooner).

Arms also share the milliseconds that come on top of what their node announced, the hop above all. Without that, an arm
that was never asked would keep its cautious prior, hence never be asked and never lose it: of the requests that some
arm could have served in time a quarter was refused (tests/faults/promises.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.fleet.changes import Changes
from orchestrator.fleet.columns import Columns
from orchestrator.fleet.load import Ahead, NodeLoad, prior_spreads
from orchestrator.fleet.refusals import Refusals
from orchestrator.fleet.text_arms import TextTrack, learned_part
from orchestrator.residency import missing_j, missing_ms
from orchestrator.routing.margins import ConformalBound
from orchestrator.routing.turns import TurnRates
from orchestrator.types import Arm, Done, Provenance, Residency

# Expectations of texts are learned themselves; how far off they were before says little later.
TEXT_WINDOW = 256
# Before an arm was observed: announced p95 times this (99 % of lognormal times up to a sigma of 0.6) ...
PRIOR_LATENCY_FACTOR = 1.5
# ... and the hop between gateway and node, until it is known.
PRIOR_HOP_MS = 8.0
# A median of fewer round trips may be an outlier.
TYPICAL_FROM = 3
# Smaller changes of what the fleet shares are not worth going through all of its arms.
SPREAD_FRACTION = 0.05
# Joules before a node was observed: the 99 % quantile of a lognormal error of sigma 0.35, and some.
PRIOR_ENERGY_FACTOR = 2.5
# What the arms of a node were told where nothing waits there.
NO_WAIT = (0.0, 0.0)


@dataclass
class ArmState:
    """One arm's record; survives the node's reconnections."""

    arm: Arm
    index: int
    service_ms: ConformalBound
    text: TextTrack
    answered: int = 0
    failed: int = 0


class ArmBoard(Columns):
    """Arrays over all arms that were ever announced; an arm keeps its index for life.

    Args:
        energy_quantile: Quantile of the joule promise.
        latency_quantile: Quantile of the millisecond promise.
        margins: False makes every bound equal its prediction; for the control experiments of the tests.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        energy_quantile: float,
        latency_quantile: float,
        margins: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._energy_quantile = energy_quantile
        self._latency_quantile = latency_quantile
        self._margins = margins
        self._clock = clock
        self._refusals = Refusals(self, clock)
        self.states: list[ArmState] = []
        self.nodes: dict[str, NodeLoad] = {}
        self._by_name: dict[str, int] = {}
        # Arms that are there, by task; found anew when one comes or goes.
        self._there: dict[str, list[ArmState]] = {}
        self._added_ms = ConformalBound(quantile=latency_quantile, prior=PRIOR_HOP_MS)
        self._spread_ms = PRIOR_HOP_MS
        # Whether any arm has a wait; where none has, readers need not look at the waits.
        self.loaded = False
        # What a text takes in turns hangs on the text.
        self.turns: TurnRates | None = None
        self._waiting_nodes = 0
        # What readers keep of these figures they bring up to date by what changed since.
        self.energy_changes = Changes()
        self.latency_changes = Changes()
        self.wait_changes = Changes()
        self.available_changes = Changes()

    def announce(self, node: str, arms: Iterable[Arm], concurrency: int, *, queue_limit: int | None = None) -> None:
        """A node joined or changed its arms: what it no longer has becomes unavailable.

        Args:
            node: Its name.
            arms: What it has now.
            concurrency: Pieces of work that it runs at once.
            queue_limit: How many more it takes; None for any number.
        """
        arms = list(arms)
        load = self.nodes.get(node)
        if load is None:
            load = self.nodes[node] = self._unknown(concurrency, arms)
        load.concurrency, load.queue_limit = concurrency, queue_limit
        load.routable = True
        self._mark(load.arms, available=False)
        self.make_room(len(self.states) + len({arm.name for arm in arms} - self._by_name.keys()))
        load.arms = [self._place(arm) for arm in arms]
        self._mark(load.arms, available=True)
        load.told_ms, load.closed_ms = None, 0.0
        for index in load.arms:
            self.closed_ms_n[index] = 0.0
            self.since_s_n[index] = load.shedding.since_s
            self._follow_residency(index)
            self._refresh_energy(index)
            self._refresh_latency(index)
        self.set_wait(load)

    def _unknown(self, concurrency: int, arms: Sequence[Arm]) -> NodeLoad:
        """A node of which nothing was seen."""
        latency = self._latency_quantile
        return NodeLoad(
            concurrency,
            ConformalBound(quantile=self._energy_quantile, prior=PRIOR_ENERGY_FACTOR),
            ConformalBound(quantile=latency, prior=0.0),
            ConformalBound(quantile=latency, prior=prior_spreads(arms)),
        )

    def _place(self, arm: Arm) -> int:
        index = self._by_name.get(arm.name)
        if index is not None:
            self.states[index].arm = arm
            return index
        index = len(self.states)
        quantile = self._latency_quantile
        track = TextTrack(ConformalBound(quantile=quantile, prior=PRIOR_LATENCY_FACTOR, window=TEXT_WINDOW))
        self.states.append(ArmState(arm, index, ConformalBound(quantile=quantile, prior=0.0), track))
        self._by_name[arm.name] = index
        return index

    def _mark(self, indices: Sequence[int], *, available: bool) -> None:
        self.available_changes.note(indices)
        self._there.clear()
        for index in indices:
            self.available_n[index] = available

    def set_routable(self, node: str, routable: bool) -> bool:
        """Take a node out of routing or put it back; true when that changed anything."""
        load = self.nodes[node]
        if load.routable == routable:
            return False
        load.routable = routable
        self._mark(load.arms, available=routable)
        return True

    def index_of(self, name: str) -> int | None:
        """Index of an arm by name."""
        return self._by_name.get(name)

    def arms(self, task: str) -> list[ArmState]:
        """The arms of a task whose node is routable."""
        there = self._there.get(task)
        if there is None:
            there = [state for state in self.states if state.arm.task == task and self.available_n[state.index]]
            self._there[task] = there
        return [*there]

    def has_arms(self, task: str, expert: str | None = None) -> bool:
        """Whether any arm of a task, or of this expert of it, is on a routable node."""
        return any(expert in (None, state.arm.expert) for state in self.arms(task))

    def forget(self, node: str) -> None:
        """A node's device works differently from now on: what was observed of it counts no longer."""
        load = self.nodes[node]
        load.energy_ratio.forget()
        load.added_ms.forget()
        load.wait_error.forget()
        for index in load.arms:
            self.states[index].service_ms.forget()

    # ---- load

    def dispatched(self, index: int, held_ms: float | None = None) -> float:
        """Work was sent to an arm; returns the milliseconds that it is expected to hold a slot.

        Args:
            index: The arm.
            held_ms: What is expected of this work; None takes what is typical for the arm.
        """
        load = self.nodes[self.states[index].arm.node]
        held_ms = self.states[index].arm.p50_ms if held_ms is None else held_ms
        load.pending += 1
        load.sent += 1
        load.pending_ms += held_ms
        self.set_wait(load)
        return held_ms

    def released(self, index: int, held_ms: float) -> None:
        """Work that was sent is no longer under way."""
        load = self.nodes[self.states[index].arm.node]
        load.pending -= 1
        load.pending_ms = max(0.0, load.pending_ms - held_ms) if load.pending else 0.0
        self.set_wait(load)

    def set_wait(self, load: NodeLoad) -> None:
        """Tell a node's arms what work waits there, and whether more is taken."""
        calm = load.shedding.lapses_s == -math.inf
        if calm and load.pending < load.concurrency and not load.closed_ms and load.told_ms == NO_WAIT:
            # A slot is free, nobody is refused and nobody was lately: nothing waits and all comes in, as was told.
            return
        if not calm:
            load.shedding.follow(load, self._clock())
            if load.shedding.since_s == -math.inf:
                self.since_s_n[load.arms] = -math.inf
        closed_ms = load.closed_now_ms
        if load.closed_ms != closed_ms:
            load.closed_ms = closed_ms
            self.available_changes.note(load.arms)
            self.closed_ms_n[load.arms] = closed_ms
        wait_ms = load.wait_ms
        bound_ms = load.wait_bound_ms if self._margins else wait_ms
        if load.arms and load.told_ms == (wait_ms, bound_ms):
            return
        load.told_ms = wait_ms, bound_ms
        self.wait_changes.note(load.arms)
        for index in load.arms:
            load_ms = self.load_ms_n.item(index)
            self.wait_ms_n[index] = wait_ms + load_ms
            self.wait_bound_ms_n[index] = bound_ms + load_ms
        waits = wait_ms > 0.0 or any(self.load_ms_n[index] > 0.0 for index in load.arms)
        self._waiting_nodes += waits - load.waits
        load.waits = waits
        self.loaded = self._waiting_nodes > 0

    def turned_away(self, arms: NDArray[np.intp], within_s: float) -> None:
        """A request was refused because of these arms' queues, which would have let it in if they were short.

        Args:
            arms: Indices.
            within_s: What the request would have waited at most, its own work included.
        """
        self._refusals.turned_away(arms, within_s)

    def set_residency(self, index: int, residency: Residency | None) -> None:
        """An expert was loaded or unloaded: until it can run it has a wait, and costs its load."""
        state = self.states[index]
        state.arm = replace(state.arm, residency=residency)
        self._follow_residency(index)
        self._refresh_energy(index)
        self.set_wait(self.nodes[state.arm.node])

    def _follow_residency(self, index: int) -> None:
        arm = self.states[index].arm
        load_ms = missing_ms(arm.residency)
        if self.load_ms_n[index] != load_ms:
            self.load_ms_n[index] = load_ms
            self.nodes[arm.node].told_ms = None

    # ---- learning from results

    def ahead(self, index: int) -> Ahead:
        """What is ahead of work that is sent to an arm now."""
        return self.nodes[self.states[index].arm.node].ahead

    def waited(self, index: int, ahead: Ahead, actual_ms: float) -> None:
        """Learn how long work waited on an arm's node, by what the node says."""
        load = self.nodes[self.states[index].arm.node]
        if load.waited(ahead, actual_ms):
            self.set_wait(load)

    def answered(self, index: int, *, service_ms: float, energy_j: float) -> None:
        """An arm answered: learn its round trip (predicted wait taken off) and its joules (NaN: unmeasured)."""
        state = self.states[index]
        state.answered += 1
        self._learn_latency(state, max(0.0, service_ms))
        self.measured(index, energy_j)

    def measured(self, index: int, energy_j: float) -> None:
        """Learn the joules of a run of an arm; NaN: unmeasured."""
        state = self.states[index]
        if state.arm.text is not None:
            # Joules of a text are compared with what its tokens lead to expect, see `generated`.
            return
        predicted_j = state.arm.energy.energy_j
        if predicted_j > 0 and math.isfinite(energy_j):
            load = self.nodes[state.arm.node]
            if load.energy_ratio.observe(energy_j / predicted_j):
                for other in load.arms:
                    self._refresh_energy(other)

    def generated(self, index: int, done: Done, *, service_ms: float) -> None:
        """An arm with a text profile answered: learn how far its milliseconds and joules are from the profile's."""
        state = self.states[index]
        profile = state.arm.text
        if profile is None:
            self.answered(index, service_ms=service_ms, energy_j=done.energy.energy_j)
            return
        state.answered += 1
        load, energy_j = self.nodes[state.arm.node], done.energy.energy_j
        # From joules that were themselves predicted there is nothing to learn.
        told = math.isfinite(energy_j) and not done.energy.preliminary
        expected_j = state.text.profile(profile).cost_j(done.read_tokens, done.completion_tokens) if told else 0.0
        changed = state.text.observe(profile, done, service_ms=service_ms, together=max(1, load.pending))
        moved = expected_j > 0.0 and load.energy_ratio.observe(energy_j / expected_j)
        for other in load.arms if moved else (index,) if changed else ():
            self._refresh_energy(other)

    def energy_factors(self, index: int) -> tuple[float, float]:
        """By what a node's joules exceed those announced: typically, and at the promise's quantile."""
        ratio = self.nodes[self.states[index].arm.node].energy_ratio
        typical = 1.0 if math.isnan(ratio.typical) else ratio.typical
        return typical, max(typical, ratio.bound) if self._margins else typical

    def _learn_latency(self, state: ArmState, service_ms: float) -> None:
        if state.service_ms.observe(service_ms):
            self._refresh_latency(state.index)
        load = self.nodes[state.arm.node]
        added_ms = max(0.0, service_ms - state.arm.p95_ms * PRIOR_LATENCY_FACTOR)
        if load.added_ms.observe(added_ms):
            self._refresh_unsettled(load)
        if self._added_ms.observe(added_ms) and self._has_moved():
            self._spread()

    def _has_moved(self) -> bool:
        """Whether what the fleet shares is so different from what was last spread that spreading it is worthwhile."""
        bound_ms, before_ms = self._added_ms.bound, self._spread_ms
        if abs(bound_ms - before_ms) <= SPREAD_FRACTION * max(bound_ms, before_ms):
            return False
        self._spread_ms = bound_ms
        return True

    def _spread(self) -> None:
        """What the fleet shares has changed: bring all bounds that rest on it up to date.

        Cost: a few array operations; arm by arm the first requests of 10,000 nodes took most of the gateway's time.
        """
        if not self._margins:
            return
        arms = np.flatnonzero(self.borrows_n)
        added_ms = np.maximum(self.here_ms_n[arms], self._added_ms.bound)
        self.service_bound_ms_n[arms] = np.maximum(self.own_ms_n[arms], self.announced_ms_n[arms] + added_ms)
        self.latency_changes.note(arms.tolist())

    def _refresh_unsettled(self, load: NodeLoad) -> None:
        for index in load.arms:
            if not self.states[index].service_ms.settled:
                self._refresh_latency(index)

    def failed(self, index: int) -> None:
        """An arm did not answer."""
        self.states[index].failed += 1

    def _refresh_latency(self, index: int) -> None:
        self.latency_changes.note((index,))
        state = self.states[index]
        known = state.service_ms.count >= TYPICAL_FROM
        typical = state.service_ms.typical if known else state.arm.p50_ms + 1.0
        self.service_ms_n[index] = typical
        self.service_bound_ms_n[index] = self._service_bound_ms(state, typical) if self._margins else typical

    def _service_bound_ms(self, state: ArmState, typical_ms: float) -> float:
        """What the arm showed itself; as long as that is too little, what its announcement leads to expect here."""
        own, arm, index = state.service_ms, state.arm, state.index
        here = self.nodes[arm.node].added_ms
        self.borrows_n[index] = borrows = not (own.settled or here.settled)
        if own.settled:
            return max(typical_ms, own.bound)
        own_ms, announced_ms = max(typical_ms, own.confirmed), arm.p95_ms * PRIOR_LATENCY_FACTOR
        if not borrows:
            return max(own_ms, announced_ms + here.bound)
        self.own_ms_n[index], self.announced_ms_n[index] = own_ms, announced_ms
        self.here_ms_n[index] = here.confirmed
        return max(own_ms, announced_ms + max(here.confirmed, self._added_ms.bound))

    def _refresh_energy(self, index: int) -> None:
        state = self.states[index]
        energy = state.arm.energy
        # Unknown joules cannot be promised: such an arm fits no finite energy budget.
        typical_j, bound_j = 0.0, math.inf
        if energy.provenance is not Provenance.UNMEASURED:
            typical, bound = self.energy_factors(index)
            energy_j = energy.energy_j * learned_part(state.arm.text, state.text)
            load_j = missing_j(state.arm.residency)
            typical_j, bound_j = load_j + energy_j * typical, load_j + energy_j * bound
        if self.energy_j_n[index] != typical_j or self.energy_bound_j_n[index] != bound_j:
            self.energy_j_n[index], self.energy_bound_j_n[index] = typical_j, bound_j
            self.energy_changes.note((index,))
