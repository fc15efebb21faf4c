"""Idle joules within the energy limit: which nodes stay awake, and which arms on them are active.

An arm runs on a node, and a node that stays awake for it draws its idle watts whether or not it answers. At a rate of
requests that is joules per request, each node's once, however many of its arms are active. So with the nodes A awake
the energy limit E (of either mode) leaves its arms

    E − Σ_{A} on_j − Σ_{not A} off_j,

and the best set of arms on A is a selection problem with that limit. `optimizer.selection.awake` chooses nodes for
several tasks at a *price* of a joule; here one problem has a *limit*. Nodes are few, so the search branches on nodes: a
box is worth at most what all its undecided nodes together would be, if they took no more than asleep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from optimizer.errors import ProblemError
from optimizer.selection.arms import sound
from optimizer.selection.certify import certify
from optimizer.selection.exact import Search
from optimizer.selection.minimum import PRECISION, limited
from optimizer.selection.power import Power, check_powers
from optimizer.selection.problem import Problem
from optimizer.selection.solution import Solution, Status
from optimizer.selection.solve import solve

# Boxes of nodes that are looked at; the bound says what that leaves open.
MAX_BOXES = 4096
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Stay:
    """What a node takes per request beyond sleeping all the time.

    Args:
        on_j: Where it is awake.
        off_j: Where it sleeps: its turn, if it is awake now.
        must: Whether it has to be awake.
    """

    on_j: float
    off_j: float = 0.0
    must: bool = False


@dataclass(frozen=True)
class NodePlan:
    """Who is awake, and the active set there.

    Args:
        problem: The arms of the nodes that are awake, within what idling leaves of the limit.
        solution: Its solution, in its indices; `INFEASIBLE` where no nodes leave any set.
        awake: Those nodes, by name.
        idle_j: Joules per request that no arm takes.
        bound: No nodes with any set of their arms are worth more.
        reasons: What could not be certified; empty where every box's bound was.
    """

    problem: Problem
    solution: Solution
    awake: frozenset[str]
    idle_j: float
    bound: float
    reasons: tuple[str, ...] = ()


def stays_of(powers: Mapping[str, Power], *, rate_per_s: float, horizon_s: float) -> dict[str, Stay]:
    """Nodes' watts as joules per request.

    Args:
        powers: Of every node.
        rate_per_s: Requests per second that the idle watts are spread over.
        horizon_s: How long the plan stands; what falling asleep and waking takes is spread over it.

    Raises:
        ProblemError: Powers, a rate or a time that cannot be meant.
    """
    check_powers(powers)
    for name, value in (("rate of requests", rate_per_s), ("horizon", horizon_s)):
        if not (sound(value) and value > 0.0):
            raise ProblemError(f"The {name} must be finite and above 0.")

    def stay(power: Power) -> Stay:
        turn_w = power.turn_j / horizon_s
        on_w, off_w = power.idle_w - power.sleep_w, 0.0
        if power.awake:
            off_w = turn_w
        else:
            on_w += turn_w
        return Stay(on_w / rate_per_s, off_w / rate_per_s, must=not power.may_sleep)

    return {node: stay(power) for node, power in powers.items()}


def choose_nodes(problem: Problem, stays: Mapping[str, Stay], *, search: Search | None = None) -> NodePlan:
    """The nodes and the active set that are worth most within the problem's energy limit.

    Args:
        problem: With an energy limit, over the arms of every node.
        stays: By node; a node that is absent takes nothing to keep awake.
        search: For each solve.

    Raises:
        ProblemError: No energy limit.

    Cost: one solve and check per box of nodes, a handful usually, `MAX_BOXES` at worst; mode ``routed``, 12 arms on
        4 nodes and 1,000 queries, 0.6 s (2026-11-28, beside other work).
    """
    if limit_of(problem) is None:
        raise ProblemError("idle joules count within an energy limit; the problem has none.")
    there = {arm.node for arm in problem.arms}
    # Who need not be paid for, must be awake, or takes more asleep, is awake: more arms are never worth less.
    fixed = frozenset((there - stays.keys()) | {n for n, stay in stays.items() if stay.must or stay.on_j <= stay.off_j})
    nodes = sorted((there & stays.keys()) - fixed, key=lambda node: (-stays[node].on_j, node))
    choice = _Choice(problem, stays, fixed, replace(search or Search(), prove=True))
    choice.explore(fixed, nodes)
    return choice.plan()


def limit_of(problem: Problem) -> float | None:
    """The limit on the mode's energy."""
    return problem.limits.energy_j if problem.routing is None else problem.routing.mean_energy_j


@dataclass(frozen=True)
class _Solved:
    """Some nodes awake, the rest asleep; those that are undecided are there and paid for as if they slept."""

    problem: Problem
    solution: Solution
    taken_j: float
    reasons: tuple[str, ...]


class _Choice:
    """Depth first over nodes: asleep first, then awake."""

    def __init__(self, problem: Problem, stays: Mapping[str, Stay], fixed: frozenset[str], search: Search) -> None:
        self._problem, self._stays, self._fixed, self._search = problem, stays, fixed, search
        self._limit_j = limit_of(problem) or 0.0
        self._best: tuple[frozenset[str], _Solved] | None = None
        self._bound, self._boxes, self._reasons = -math.inf, 0, list[str]()

    def explore(self, awake: frozenset[str], undecided: Sequence[str]) -> None:
        widest = self._solve(awake, undecided)
        self._boxes += 1
        if widest is None:
            return
        bound, arms = widest.solution.bound, widest.problem.arms
        if self._beats(bound):
            used = {arms[n].node for n in widest.solution.active}
            self._offer(awake | (used & set(undecided)))
        if not self._beats(bound) or not undecided or self._boxes >= MAX_BOXES:
            self._bound = max(self._bound, bound)
            self._reasons += widest.reasons
            return
        first, rest = undecided[0], undecided[1:]
        self.explore(awake, rest)
        self.explore(awake | {first}, rest)

    def _beats(self, bound: float) -> bool:
        if self._best is None:
            return True
        best = self._best[1].solution.objective
        return bound > best + _TOLERANCE * max(1.0, best)

    def _offer(self, awake: frozenset[str]) -> None:
        found = self._solve(awake, ())
        if found is None:
            return
        if idle := awake - self._fixed - {found.problem.arms[n].node for n in found.solution.active}:
            # Nobody works there: without them there is more for the others.
            self._offer(awake - idle)
        elif self._beats(found.solution.objective):
            self._best = awake, found

    def _solve(self, awake: frozenset[str], undecided: Sequence[str]) -> _Solved | None:
        """None where no arm fits."""
        nodes = awake | frozenset(undecided)
        kept = [n for n, arm in enumerate(self._problem.arms) if arm.node in nodes]
        taken_j = math.fsum(stay.on_j if node in awake else stay.off_j for node, stay in self._stays.items())
        if not kept or taken_j > self._limit_j:
            return None
        problem = limited(self._problem.take(kept), self._limit_j - taken_j)
        solution = solve(problem, self._search)
        verdict = certify(problem, solution)
        if solution.status is Status.INFEASIBLE:
            self._reasons += verdict.reasons
            return None
        return _Solved(problem, solution, taken_j, verdict.reasons)

    def plan(self) -> NodePlan:
        """The best that was found."""
        if self._best is None:
            nothing = Solution(Status.INFEASIBLE, (), 0.0, max(0.0, self._bound), self._boxes)
            return NodePlan(self._problem, nothing, frozenset(), 0.0, nothing.bound, tuple(self._reasons))
        awake, found = self._best
        bound = max(self._bound, found.solution.objective)
        reasons = (*found.reasons, *self._reasons)
        return NodePlan(found.problem, found.solution, awake, found.taken_j, bound, reasons)


@dataclass(frozen=True)
class LeastAwake:
    """The fewest joules, idling included, that reach a quality.

    Args:
        plan: Nodes and set that reach it; infeasible where none do.
        energy_j: The limit that the plan was made for.
        lower_j: No nodes and set within less than this reach it.
    """

    plan: NodePlan
    energy_j: float
    lower_j: float


def least_energy_awake(
    problem: Problem, stays: Mapping[str, Stay], *, min_quality: float, search: Search | None = None
) -> LeastAwake:
    """As `minimum.least_energy`, with idle joules counted.

    Args:
        problem: Of either mode; its energy limit, if any, is the most that may be spent.
        stays: By node.
        min_quality: In units of the objective.
        search: For each solve.

    Cost: about fifteen times that of `choose_nodes`.
    """
    most_j = limit_of(problem)
    if most_j is None:
        idle_j = math.fsum(max(stay.on_j, stay.off_j) for stay in stays.values())
        most_j = math.fsum(arm.energy_j for arm in problem.arms) + idle_j
    found = choose_nodes(limited(problem, most_j), stays, search=search)
    low_j, high_j = 0.0, most_j
    if found.solution.objective < min_quality:
        return LeastAwake(replace(found, solution=replace(found.solution, status=Status.INFEASIBLE)), 0.0, most_j)
    while high_j - low_j > PRECISION * high_j:
        middle_j = 0.5 * (low_j + high_j)
        tried = choose_nodes(limited(problem, middle_j), stays, search=search)
        if tried.solution.status is not Status.INFEASIBLE and tried.solution.objective >= min_quality:
            found, high_j = tried, middle_j
        elif tried.solution.status is Status.INFEASIBLE or tried.bound < min_quality:
            low_j = middle_j
        else:
            # Stopped early: neither side is proven here.
            break
    return LeastAwake(found, high_j, low_j)
