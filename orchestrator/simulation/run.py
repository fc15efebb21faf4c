"""The simulation: events in the order of their times, one request after the other through door, routing and nodes.

Time is seconds since the first moment of the load. What a real gateway does between events it does here in no time,
but for `GatewayTraits.hop_ms`.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.admission import Verdict
from orchestrator.execution.attempt import patience_for_s
from orchestrator.execution.exhausted import NODE_BUSY, exhausted
from orchestrator.execution.run import window_ms
from orchestrator.routing.route import Decision
from orchestrator.simulation.chance import Chance, energy_j, service_ms
from orchestrator.simulation.house import House, left_of
from orchestrator.simulation.load import Asked, Kill, Load
from orchestrator.simulation.machines import Machine, Work
from orchestrator.simulation.outcome import Ends, Outcome
from orchestrator.simulation.world import World

Floats = NDArray[np.float64]


class Simulation:
    """One run of a load on a world.

    Args:
        world: The fleet, the tasks and the gateway.
        load: What comes.
    """

    def __init__(self, world: World, load: Load) -> None:
        self._world = world
        self._load = load
        self._traits = world.gateway
        self._half_hop_s = world.gateway.hop_ms * 0.5e-3
        self._now_s = 0.0
        self._house = House(world.nodes, world.tasks, world.gateway, clock=lambda: self._now_s)
        self._machines = {node.name: Machine(node.name, node.device) for node in world.nodes}
        board = self._house.board
        experts = {(node.name, e.name, e.variant): e for node in world.nodes for e in node.device.experts}
        self._machine_n = [self._machines[state.arm.node] for state in board.states]
        self._expert_n = [experts[state.arm.node, state.arm.expert, state.arm.variant] for state in board.states]
        self._chance = Chance(load.seed, len(load.at_s_q))
        self._ends = Ends(load.at_s_q, load.task_q)
        self._asked: dict[int, Asked] = {}
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._count = 0
        # When the last request ended or the last node finished: timers that come later do not count.
        self._until_s = 0.0

    def run(self) -> Outcome:
        """Everything until the last request has ended and the last node has finished."""
        for kill in self._load.kills:
            if kill.node in self._machines:
                self._at(kill.at_s, self._killed, kill)
        times: list[float] = self._load.at_s_q.tolist()
        events = self._events
        for request, at_s in enumerate(times):
            while events and events[0][0] <= at_s:
                self._step()
            self._now_s = at_s
            self._came(request)
        while events:
            self._step()
        return Outcome(self._ends, tuple(self._machines.values()), self._until_s, self._count + len(times))

    def _step(self) -> None:
        self._now_s, _, happen, what = heapq.heappop(self._events)
        happen(what)

    def _at(self, at_s: float, happen: Callable[[Any], None], what: object) -> None:
        self._count += 1
        # The number keeps events of one moment in the order in which they were planned.
        heapq.heappush(self._events, (at_s, self._count, happen, what))

    def _conclude(self, request: int, state: str) -> None:
        self._ends.end(request, state, self._now_s)
        self._until_s = self._now_s

    # ---- at the gateway

    def _came(self, request: int) -> None:
        deadline_s = self._world.tasks[self._load.task_q[request]].deadline_s
        verdict = self._house.verdict(deadline_s)
        if verdict is Verdict.ENTER:
            self._enter(request)
        elif verdict is Verdict.WAIT:
            self._house.door.waiting.append(request)
            self._at(self._now_s + deadline_s, self._gave_up, request)
        else:
            self._conclude(request, "OVERLOADED")

    def _gave_up(self, request: int) -> None:
        waiting = self._house.door.waiting
        if request not in self._asked and not self._ends.state_q[request]:
            waiting.remove(request)
            self._conclude(request, "OVERLOADED")

    def _enter(self, request: int) -> None:
        self._house.door.running += 1
        task = self._world.tasks[self._load.task_q[request]]
        routed = self._house.decide(task, self._now_s)
        if routed is None or routed.refusal is not None:
            self._conclude(request, "NO_NODE" if routed is None else str(routed.refusal))
            self._house.left(0.0)
            return
        allowed_ms = window_ms(routed.limits, task.deadline_s, within=routed.decision.within)
        ends_s = float(self._load.at_s_q[request]) + allowed_ms * 1e-3
        asked = Asked(request, self._now_s, routed.limits, routed.decision.pace, routed.charge, ends_s)
        self._asked[request] = asked
        self._at(max(ends_s, self._now_s), self._ran_out, asked)
        self._send(asked, routed.decision)

    def _let_in_next(self, service_s: float) -> None:
        """A request leaves; the next in line comes in, and so on where that one is refused."""
        door = self._house.door
        self._house.left(service_s)
        while door.waiting and door.running < door.max_running:
            self._enter(door.waiting.popleft())

    def _send(self, asked: Asked, decision: Decision) -> None:
        if decision.route is None or decision.index is None:
            raise ValueError("a decision without a route is not sent")
        arm, board = decision.route.arms[0][0], self._house.board
        asked.quality = float(decision.offer.quality_r[decision.index])
        bound_ms = float(board.wait_bound_ms_n[arm]) + float(board.service_bound_ms_n[arm])
        patience_s = patience_for_s(bound_ms, self._traits.suspect_after_s)
        ahead = board.ahead(arm)
        machine, expert = self._machine_n[arm], self._expert_n[arm]
        work = Work(asked.index, asked.attempts, arm, expert, machine, self._now_s, ahead, board.dispatched(arm))
        asked.work, asked.attempts = work, asked.attempts + 1
        machine.on_the_way[work] = None
        self._at(self._now_s + self._half_hop_s, self._reached, work)
        if self._traits.max_attempts > 1 and self._now_s + patience_s < asked.ends_s:
            self._at(self._now_s + patience_s, self._lost_patience, work)

    def _told(self, work: Work) -> None:
        """The node's answer has come."""
        if not work.open:
            return
        asked = self._asked[work.request]
        elapsed_ms = (self._now_s - work.sent_s) * 1e3
        board = self._house.board
        board.waited(work.arm, work.ahead, work.queue_ms)
        board.answered(work.arm, service_ms=elapsed_ms - work.queue_ms, energy_j=work.energy_j)
        self._close(work)
        self._ends.quality_q[work.request] = asked.quality
        self._ends.node_ms_q[work.request] = work.service_ms
        self._end(asked, "ANSWERED", asked.spent_j + work.energy_j)

    def _refused(self, work: Work) -> None:
        """The node has no room, or is gone."""
        if work.open:
            self._fail(work, NODE_BUSY if work.machine.alive else "NODE_GONE")

    def _lost_patience(self, work: Work) -> None:
        if not work.open:
            return
        if not work.machine.alive:
            self._suspect(work.machine)
        asked = self._asked[work.request]
        if self._elsewhere(asked, asked.avoid | {work.arm}) is not None:
            self._fail(work, "LATE")

    def _fail(self, work: Work, reason: str) -> None:
        asked = self._asked[work.request]
        asked.reasons = (*asked.reasons, reason)
        board = self._house.board
        board.failed(work.arm)
        asked.spent_j += float(board.energy_j_n[work.arm])
        self._close(work)
        asked.avoid |= {work.arm}
        decision = None if asked.attempts >= self._traits.max_attempts else self._elsewhere(asked, asked.avoid)
        if decision is None:
            self._end(asked, exhausted(asked.reasons), asked.spent_j)
            return
        self._send(asked, decision)

    def _elsewhere(self, asked: Asked, avoid: frozenset[int]) -> Decision | None:
        task = self._world.tasks[self._load.task_q[asked.index]]
        elapsed_ms = (self._now_s - float(self._load.at_s_q[asked.index])) * 1e3
        left = left_of(asked.limits, asked.spent_j, elapsed_ms)
        decision = self._house.again(task, left, avoid, pace=asked.pace)
        return None if decision is None or decision.route is None else decision

    def _ran_out(self, asked: Asked) -> None:
        """An answer is of no use any more."""
        work = asked.work
        if self._ends.state_q[asked.index] or work is None:
            return
        spent_j = asked.spent_j + float(self._house.board.energy_j_n[work.arm])
        self._close(work)
        self._end(asked, "DEADLINE_EXCEEDED", spent_j)

    def _close(self, work: Work) -> None:
        """Nobody waits for this work any more: what waits on the node will not run, what runs will finish."""
        work.open = False
        self._house.board.released(work.arm, work.held_ms)

    def _end(self, asked: Asked, state: str, charged_j: float) -> None:
        task = self._world.tasks[self._load.task_q[asked.index]]
        self._house.settle(task.name, asked.charge, charged_j)
        self._conclude(asked.index, state)
        self._ends.attempts_q[asked.index] = asked.attempts
        del self._asked[asked.index]
        self._let_in_next(self._now_s - asked.entered_s)

    # ---- at the nodes

    def _reached(self, work: Work) -> None:
        machine = work.machine
        machine.on_the_way.pop(work, None)
        if not machine.alive:
            machine.lost.append(work)
            return
        if not work.open:
            return
        if not self._load.queueing:
            self._start(work)
            return
        taken = machine.offer(work)
        if taken is None:
            self._at(self._now_s + self._half_hop_s, self._refused, work)
        elif taken:
            self._start(work)

    def _start(self, work: Work) -> None:
        machine, luck = work.machine, self._chance.of(work.request, work.attempt)
        work.started_s = self._now_s
        work.queue_ms = max(0.0, (self._now_s - work.sent_s - self._half_hop_s) * 1e3)
        unhindered_ms = service_ms(work.expert, luck)
        work.service_ms = unhindered_ms * machine.slowdown()
        work.energy_j = energy_j(work.expert, unhindered_ms, luck)
        machine.running[work] = None
        self._at(self._now_s + work.service_ms * 1e-3, self._finished, work)

    def _finished(self, work: Work) -> None:
        machine = work.machine
        if work not in machine.running:
            return
        self._account(work, work.energy_j)
        machine.answered += 1
        self._at(self._now_s + self._half_hop_s, self._told, work)
        while (following := machine.next()) is not None:
            self._start(following)

    def _account(self, work: Work, spent_j: float) -> None:
        machine = work.machine
        del machine.running[work]
        self._until_s = self._now_s
        machine.busy_s += self._now_s - (work.started_s or 0.0)
        if math.isnan(spent_j):
            machine.unmeasured += 1
            return
        machine.active_j += spent_j
        self._ends.energy_j_q[work.request] += spent_j

    def _killed(self, kill: Kill) -> None:
        machine = self._machines[kill.node]
        if not machine.alive:
            return
        machine.alive, machine.died_s = False, self._now_s
        machine.lost += [*machine.on_the_way, *machine.running, *machine.waiting]
        for work in list(machine.running):
            share = (self._now_s - (work.started_s or 0.0)) * 1e3 / work.service_ms
            self._account(work, share * work.energy_j)
        machine.waiting.clear()
        noticed_s = self._traits.lease_s if kill.silent else self._half_hop_s
        self._at(self._now_s + noticed_s, self._gone, machine)

    def _gone(self, machine: Machine) -> None:
        """The gateway sees that a node is gone."""
        self._house.board.set_routable(machine.name, False)
        for work in machine.lost:
            self._refused(work)

    def _suspect(self, machine: Machine) -> None:
        """Work ran out of patience on a silent node: route around it, unless it is the last of a task."""
        board = self._house.board
        tasks = {expert.task for expert in machine.device.experts}
        if all(any(state.arm.node != machine.name for state in board.arms(task)) for task in tasks):
            board.set_routable(machine.name, False)


def simulate(world: World, load: Load) -> Outcome:
    """What becomes of a load on a world."""
    return Simulation(world, load).run()
