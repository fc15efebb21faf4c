"""Which nodes should stay awake: idle watts in the objective, sleeping and waking as actions.

A node serves several tasks, draws its idle watts once, whether or not it answers, and takes joules and seconds to fall
asleep and to wake. So nodes are chosen for all tasks together. With a price (quality that one joule must buy) and each
task's rate of requests, the nodes A awake over a horizon are worth, per second,

    Σ_task rate · value(best active set of the task on A)
      − price · (Σ_{A} (idle_w − sleep_w) + Σ_{changed} turn_j / horizon_s).

`turn_j` is a whole turn, asleep and awake again: what is changed now will be changed back. So a node that is awake
sleeps only where the horizon is longer than its break-even time, and one that sleeps is woken only for what pays for
the way back too. Given A, the tasks' active sets do not touch each other: each task plans with a node's whole memory.
Nodes are few, so the search branches on nodes and bounds each box by the certified bounds of the selection problems
with every undecided node awake.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from optimizer.errors import ProblemError
from optimizer.selection.arms import sound
from optimizer.selection.exact import Search
from optimizer.selection.power import Action, Power, Terms, actions_to, check_powers
from optimizer.selection.problem import Problem
from optimizer.selection.solution import Solution, Status
from optimizer.selection.solve import solve

_TOLERANCE = 1e-9
# Boxes of nodes that are looked at; the bound says what that leaves open.
MAX_BOXES = 4096
_NONE = Solution(Status.INFEASIBLE, (), 0.0, 0.0, 0)


@dataclass(frozen=True)
class Watch:
    """One task that nodes are awake for.

    Args:
        problem: Over the task's arms of every node, asleep or not.
        rate_per_s: Requests per second.
    """

    problem: Problem
    rate_per_s: float


@dataclass(frozen=True)
class Vigil:
    """Who stays awake.

    Args:
        solutions: By task, the active set on the nodes that are awake; infeasible where the task has none on any nodes.
        awake: Those nodes.
        objective: Worth per second less the price of being awake and of changing.
        bound: No other choice is better than this.
        idle_w: Watts above sleeping that the choice draws while idle, each node's once.
        actions: From how things are to how they should be: first wake, then drain and suspend.
    """

    solutions: Mapping[str, Solution]
    awake: frozenset[str]
    objective: float
    bound: float
    idle_w: float
    actions: tuple[Action, ...]


def keep_awake(
    watches: Mapping[str, Watch], powers: Mapping[str, Power], terms: Terms, *, search: Search | None = None
) -> Vigil:
    """Choose the nodes that stay awake, and every task's active set on them.

    Args:
        watches: By task. A task without any feasible set, on all nodes together, has no say; every other one keeps at
            least one node.
        powers: Of every node that arms name; a node that is absent costs nothing to keep awake.
        terms: What a joule must buy, and for how long.
        search: For each solve.

    Raises:
        ProblemError: Powers, rates or terms that cannot be meant.

    Cost: one solve per task and box of nodes; `MAX_BOXES` boxes at worst, a handful usually.
    """
    _check(watches, powers, terms)
    found = {arm.node for watch in watches.values() for arm in watch.problem.arms}
    costs = {node: _cost_w(powers.get(node), terms) for node in found}
    nodes = sorted(found, key=lambda node: (-costs[node], node))
    # More nodes are never worth less: what costs nothing to keep, or is not worth a turn, stays.
    fixed = frozenset(node for node in nodes if _stays(powers.get(node), costs[node]))
    choice = _Choice(_Tasks(watches, search), {node: terms.price_per_j * costs[node] for node in nodes})
    choice.explore(fixed, [n for n in nodes if n not in fixed and _may_wake(powers[n], terms)])
    return choice.vigil(powers, terms)


class _Tasks:
    """The tasks' selection problems on some of the nodes; a set that was solved is not solved again."""

    def __init__(self, watches: Mapping[str, Watch], search: Search | None) -> None:
        self._search = search
        self._solved: dict[tuple[str, frozenset[str]], Solution] = {}
        self._nodes = {task: frozenset(arm.node for arm in watch.problem.arms) for task, watch in watches.items()}
        self._watches = watches
        self.names = tuple(watches)
        everywhere = frozenset[str]().union(*self._nodes.values())
        self.served = [task for task in watches if self.solution(task, everywhere).status is not Status.INFEASIBLE]

    def solution(self, task: str, nodes: frozenset[str]) -> Solution:
        """The best active set on these nodes, in the problem's own indices."""
        key = task, nodes & self._nodes[task]
        if key not in self._solved:
            self._solved[key] = self._solve(*key)
        return self._solved[key]

    def _solve(self, task: str, nodes: frozenset[str]) -> Solution:
        problem = self._watches[task].problem
        kept = [n for n, arm in enumerate(problem.arms) if arm.node in nodes]
        found = solve(problem.take(kept), self._search) if kept else _NONE
        return replace(found, active=tuple(kept[n] for n in found.active), proof=None, trace=None)

    def all_on(self, nodes: frozenset[str]) -> dict[str, Solution] | None:
        """Every task's; None where a task has none there."""
        found = {task: self.solution(task, nodes) for task in self.served}
        return None if any(one.status is Status.INFEASIBLE for one in found.values()) else found

    def objective_per_s(self, solutions: Mapping[str, Solution]) -> float:
        """Worth of all answers."""
        return math.fsum(self._watches[task].rate_per_s * one.objective for task, one in solutions.items())

    def bound_per_s(self, solutions: Mapping[str, Solution]) -> float:
        """No active sets on these nodes are worth more."""
        return math.fsum(self._watches[task].rate_per_s * one.bound for task, one in solutions.items())

    def lost_per_s(self, solutions: Mapping[str, Solution], nodes: frozenset[str]) -> float:
        """What the same sets are worth less on these nodes alone; infinite where a task loses them all."""
        lost_per_s = 0.0
        for task, one in solutions.items():
            watch = self._watches[task]
            left = tuple(n for n in one.active if watch.problem.arms[n].node in nodes)
            if not left:
                return math.inf
            if left != one.active:
                lost_per_s += watch.rate_per_s * (one.objective - watch.problem.value(left))
        return lost_per_s


class _Choice:
    """Depth first over nodes: asleep first, then awake.

    Args:
        tasks: What nodes are worth.
        cost_per_s: By node, what keeping it awake costs more than having it sleep.
    """

    def __init__(self, tasks: _Tasks, cost_per_s: Mapping[str, float]) -> None:
        self._tasks, self._cost_per_s = tasks, cost_per_s
        self._best: tuple[float, frozenset[str], dict[str, Solution]] | None = None
        self._open = -math.inf
        self._boxes = 0

    def explore(self, awake: frozenset[str], undecided: Sequence[str]) -> None:
        widest = self._tasks.all_on(awake | frozenset(undecided))
        if widest is None:
            return
        self._boxes += 1
        bound = self._tasks.bound_per_s(widest) - self._cost_of(awake)
        if self._best is None or bound > self._best[0] + _TOLERANCE:
            self._offer(self._lean(awake, undecided, widest))
        closed = self._best is not None and bound <= self._best[0] + _TOLERANCE
        if closed or not undecided or self._boxes >= MAX_BOXES:
            self._open = max(self._open, bound)
            return
        first, rest = undecided[0], undecided[1:]
        self.explore(awake, rest)
        self.explore(awake | {first}, rest)

    def _lean(self, awake: frozenset[str], undecided: Sequence[str], widest: Mapping[str, Solution]) -> frozenset[str]:
        """Of all these nodes those that are worth what they cost, the dearest being left out first."""
        nodes = awake | frozenset(undecided)
        for node in undecided:
            fewer = nodes - {node}
            more = self._tasks.lost_per_s(widest, fewer) - self._tasks.lost_per_s(widest, nodes)
            if more < self._cost_per_s[node]:
                nodes = fewer
        return nodes

    def _offer(self, awake: frozenset[str]) -> None:
        solutions = self._tasks.all_on(awake)
        if solutions is None:
            return
        objective = self._tasks.objective_per_s(solutions) - self._cost_of(awake)
        if self._best is None or objective > self._best[0]:
            self._best = objective, awake, solutions

    def _cost_of(self, awake: Iterable[str]) -> float:
        return math.fsum(self._cost_per_s[node] for node in awake)

    def vigil(self, powers: Mapping[str, Power], terms: Terms) -> Vigil:
        """The best choice that was found."""
        if self._best is None or not self._tasks.served:
            return Vigil(dict.fromkeys(self._tasks.names, _NONE), frozenset(), 0.0, 0.0, 0.0, ())
        objective, awake, found = self._best
        # What those pay that are awake and will sleep is the same constant in every choice.
        turns = [p.turn_j for node, p in powers.items() if node in self._cost_per_s and p.awake]
        turning_per_s = terms.price_per_j * math.fsum(turns) / terms.horizon_s
        solutions = {task: found.get(task, _NONE) for task in self._tasks.names}
        idle_w = math.fsum(p.idle_w - p.sleep_w for node, p in powers.items() if node in awake)
        bound = max(objective, self._open)
        steps = tuple(actions_to(sorted(self._cost_per_s), awake, powers))
        return Vigil(solutions, awake, objective - turning_per_s, bound - turning_per_s, idle_w, steps)


def _cost_w(power: Power | None, terms: Terms) -> float:
    """Watts that keeping a node awake takes more than having it sleep, over the horizon."""
    if power is None:
        return 0.0
    turn_w = power.turn_j / terms.horizon_s
    return power.idle_w - power.sleep_w + (-turn_w if power.awake else turn_w)


def _stays(power: Power | None, cost_w: float) -> bool:
    return power is None or (power.awake and (cost_w <= 0.0 or not power.may_sleep))


def _may_wake(power: Power, terms: Terms) -> bool:
    return power.awake or terms.max_wake_s is None or power.wake_s <= terms.max_wake_s


def _check(watches: Mapping[str, Watch], powers: Mapping[str, Power], terms: Terms) -> None:
    check_powers(powers)
    for task, watch in watches.items():
        if not (sound(watch.rate_per_s) and watch.rate_per_s > 0.0):
            raise ProblemError(f"Task {task!r}: the rate of requests must be finite and above 0.")
    if not (sound(terms.horizon_s) and terms.horizon_s > 0.0):
        raise ProblemError("The terms need a horizon above 0.")
    if not sound(terms.price_per_j):
        raise ProblemError("The price of a joule must be finite and at least 0.")
