"""Which nodes should stay awake: idle watts in the objective, sleeping and waking as actions.

A node that is awake draws its idle watts whether or not it answers, and one that sleeps costs joules and seconds to
wake. With a price (quality that one joule must buy) and a rate of requests, keeping nodes A awake over a horizon costs,
per request,

    price · (Σ_{A} (idle_w − sleep_w) / rate + Σ_{A asleep now} wake_j / (rate · horizon_s)),

and the best set of nodes maximises the value of the best active set on them minus that. Nodes are few, so the search
branches on nodes and bounds each box by the certified bound of the selection problem with every undecided node awake.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from optimizer.errors import ProblemError
from optimizer.selection.arms import sound
from optimizer.selection.exact import Search
from optimizer.selection.problem import Problem
from optimizer.selection.solution import Solution, Status
from optimizer.selection.solve import solve

_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Power:
    """What it takes to keep a node awake.

    Args:
        idle_w: Watts while it is awake and does nothing.
        sleep_w: Watts while it sleeps.
        wake_j: Joules of waking up.
        wake_s: Seconds until it can answer after being woken.
        awake: Whether it is awake now.
        may_sleep: False for a node that must stay awake.
    """

    idle_w: float
    sleep_w: float = 0.0
    wake_j: float = 0.0
    wake_s: float = 0.0
    awake: bool = True
    may_sleep: bool = True


@dataclass(frozen=True, slots=True)
class Demand:
    """What the joules of being awake are weighed against.

    Args:
        rate_per_s: Requests per second.
        price_per_j: Quality that one joule must buy.
        horizon_s: How long the decision stands; what waking costs is spread over it.
        max_wake_s: Nodes that take longer to wake are not woken; None for no limit.
    """

    rate_per_s: float
    price_per_j: float
    horizon_s: float = 600.0
    max_wake_s: float | None = None


class Step(StrEnum):
    """What is to be done with a node, in this order."""

    WAKE = "wake"
    DRAIN = "drain"
    SUSPEND = "suspend"


@dataclass(frozen=True, slots=True)
class Action:
    """One step for one node.

    Args:
        node: Which.
        step: What.
        after_s: Seconds until its effect: waking takes its time.
        energy_j: Joules that the step itself takes.
    """

    node: str
    step: Step
    after_s: float = 0.0
    energy_j: float = 0.0


@dataclass(frozen=True)
class Vigil:
    """Who stays awake.

    Args:
        solution: The active set on the nodes that are awake.
        awake: Those nodes.
        objective: Its value minus what being awake costs, per request.
        bound: No other choice is better than this.
        idle_w: Watts above sleeping that the choice draws while idle.
        actions: From how things are to how they should be: first wake, then drain and suspend.
    """

    solution: Solution
    awake: frozenset[str]
    objective: float
    bound: float
    idle_w: float
    actions: tuple[Action, ...]


def keep_awake(problem: Problem, powers: Mapping[str, Power], demand: Demand, *, search: Search | None = None) -> Vigil:
    """Choose the nodes that stay awake, and the active set on them.

    Args:
        problem: Over the arms of every node, asleep or not.
        powers: Of every node that the arms name; a node that is absent costs nothing to keep awake.
        demand: How much there is to do, and what a joule must buy.
        search: For each solve.

    Raises:
        ProblemError: Powers or a demand that cannot be meant.

    Cost: one solve per box of nodes; all 2^nodes at worst, a handful usually.
    """
    _check(powers, demand)
    nodes = sorted({arm.node for arm in problem.arms}, key=lambda node: -_cost(powers.get(node), demand))
    fixed = frozenset(node for node in nodes if _must_stay(powers.get(node)))
    choice = _Choice(problem, powers, demand, search)
    choice.explore(fixed, [node for node in nodes if node not in fixed and _may_wake(powers[node], demand)])
    return choice.vigil(nodes)


class _Choice:
    """Depth first over nodes: awake first, then asleep."""

    def __init__(self, problem: Problem, powers: Mapping[str, Power], demand: Demand, search: Search | None) -> None:
        self._problem, self._powers, self._demand, self._search = problem, powers, demand, search
        self._best: tuple[float, frozenset[str], Solution] | None = None
        self._open = -math.inf

    def explore(self, awake: frozenset[str], undecided: Sequence[str]) -> None:
        widest = self._solve(awake | frozenset(undecided))
        if widest is None:
            return
        bound = widest.bound - self._cost_of(awake)
        if self._best is not None and bound <= self._best[0] + _TOLERANCE:
            self._open = max(self._open, bound)
            return
        used = frozenset(self._problem.arms[n].node for n in widest.active)
        self._offer(awake | (used & frozenset(undecided)), widest)
        if not undecided:
            self._open = max(self._open, bound)
            return
        first, rest = undecided[0], undecided[1:]
        self.explore(awake, rest)
        self.explore(awake | {first}, rest)

    def _offer(self, awake: frozenset[str], solution: Solution) -> None:
        objective = solution.objective - self._cost_of(awake)
        if self._best is None or objective > self._best[0]:
            self._best = objective, awake, solution

    def _cost_of(self, awake: frozenset[str]) -> float:
        return sum(_cost(self._powers.get(node), self._demand) for node in awake)

    def _solve(self, nodes: frozenset[str]) -> Solution | None:
        """The best active set on these nodes, in the problem's own indices; None where there is none."""
        kept = [n for n, arm in enumerate(self._problem.arms) if arm.node in nodes]
        if not kept:
            return None
        found = solve(self._problem.take(kept), self._search)
        if found.status is Status.INFEASIBLE:
            return None
        return replace(found, active=tuple(kept[n] for n in found.active), proof=None, trace=None)

    def vigil(self, nodes: Sequence[str]) -> Vigil:
        if self._best is None:
            return Vigil(Solution(Status.INFEASIBLE, (), 0.0, 0.0, 0), frozenset(), 0.0, 0.0, 0.0, ())
        objective, awake, solution = self._best
        # Replicas that were added because they fit do not keep a node awake.
        active = tuple(n for n in solution.active if self._problem.arms[n].node in awake)
        idle_w = sum(p.idle_w - p.sleep_w for node, p in self._powers.items() if node in awake)
        bound = max(objective, self._open)
        steps = tuple(_actions(nodes, awake, self._powers))
        return Vigil(replace(solution, active=active), awake, objective, bound, idle_w, steps)


def _actions(nodes: Sequence[str], awake: frozenset[str], powers: Mapping[str, Power]) -> list[Action]:
    """Wake before anything is taken away."""
    known = [(node, powers[node]) for node in sorted(nodes) if node in powers]
    wake = [
        Action(node, Step.WAKE, power.wake_s, power.wake_j)
        for node, power in known
        if node in awake and not power.awake
    ]
    ready_s = max((action.after_s for action in wake), default=0.0)
    leave = [node for node, power in known if node not in awake and power.awake]
    drain = [Action(node, Step.DRAIN, ready_s) for node in leave]
    return wake + drain + [Action(node, Step.SUSPEND, ready_s) for node in leave]


def _cost(power: Power | None, demand: Demand) -> float:
    if power is None:
        return 0.0
    joules = (power.idle_w - power.sleep_w) / demand.rate_per_s
    if not power.awake:
        joules += power.wake_j / (demand.rate_per_s * demand.horizon_s)
    return demand.price_per_j * joules


def _must_stay(power: Power | None) -> bool:
    return power is None or (power.awake and not power.may_sleep)


def _may_wake(power: Power, demand: Demand) -> bool:
    return power.awake or demand.max_wake_s is None or power.wake_s <= demand.max_wake_s


def _check(powers: Mapping[str, Power], demand: Demand) -> None:
    for node, power in powers.items():
        if not all(sound(value) for value in (power.idle_w, power.sleep_w, power.wake_j, power.wake_s)):
            raise ProblemError(f"Node {node!r}: watts, joules and seconds must be finite and at least 0.")
        if power.sleep_w > power.idle_w:
            raise ProblemError(f"Node {node!r}: sleeping cannot take more watts than idling.")
    if not (
        sound(demand.rate_per_s) and demand.rate_per_s > 0.0 and sound(demand.horizon_s) and demand.horizon_s > 0.0
    ):
        raise ProblemError("The demand needs a rate and a horizon above 0.")
    if not sound(demand.price_per_j):
        raise ProblemError("The price of a joule must be finite and at least 0.")
