"""One instance, every solver: how the solver benchmark takes its times and sums them up."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from optimizer.selection.exact import Search
from optimizer.selection.problem import Problem
from optimizer.selection.solution import Solution
from optimizer.selection.solve import solve
from tests.bench.harness import Row
from tests.bench.solver_instances import Case
from tests.bench.solver_process import Peers

LIMIT_S = 20.0
SHIFT_S = 1e-3
# The better of each one's encodings, as `--pilot` finds; the order only decides who is stopped early.
ENCODINGS = {
    "best_of": (("highs", ""), ("scip", ""), ("cpsat", "")),
    "any_right": (("highs", ""), ("scip", "lazy"), ("cpsat", "log")),
}


@dataclass(frozen=True)
class Timed:
    """One instance.

    Args:
        ours_s: Our solver.
        peer_s: The fastest peer.
        peer: Who that was; "" if none finished.
        differs: Largest difference between objectives of those that finished.
    """

    case: Case
    ours_s: float
    peer_s: float
    peer: str
    differs: float


@dataclass
class Fastest:
    """The fastest peer on one instance so far."""

    seconds: float = LIMIT_S
    peer: str = ""
    objectives: list[float] = field(default_factory=list)


def stopwatch(call: Callable[[], Solution], *, repeats: int = 5) -> tuple[float, Solution]:
    """Median seconds, and the last answer; long calls are not repeated."""
    seconds: list[float] = []
    while True:
        start = time.perf_counter()
        solution = call()
        seconds.append(time.perf_counter() - start)
        if len(seconds) == repeats or sum(seconds) > 2.0:
            return statistics.median(seconds), solution


def fresh(problem: Problem) -> Problem:
    """The same problem with nothing cached."""
    return replace(problem)


def ours(problem: Problem, search: Search | None = None) -> tuple[float, Solution]:
    """Our solver, as a user calls it."""
    problems = iter([fresh(problem) for _ in range(5)])
    return stopwatch(lambda: solve(next(problems), search))


def against(case: Case, others: Peers) -> Timed:
    """One instance, all solvers."""
    seconds, solution = ours(case.problem)
    fastest = Fastest()
    for peer, encoding in ENCODINGS[case.utility]:
        reply = others.solve(case.problem, peer, encoding=encoding, time_limit_s=fastest.seconds)
        if reply.finished:
            fastest.objectives.append(case.problem.value(reply.active))
            if reply.seconds < fastest.seconds:
                fastest.seconds, fastest.peer = reply.seconds, peer
    differs = max((abs(value - solution.objective) for value in fastest.objectives), default=0.0)
    return Timed(case, seconds, fastest.seconds, fastest.peer, differs)


def shifted_mean(values: Sequence[float]) -> float:
    """Geometric mean with a shift of 1 ms."""
    return math.exp(statistics.fmean(math.log(value + SHIFT_S) for value in values)) - SHIFT_S


def class_rows(name: str, timed: Sequence[Timed]) -> Iterator[Row]:
    """Figures of one class of instances."""
    mine, theirs = shifted_mean([one.ours_s for one in timed]), shifted_mean([one.peer_s for one in timed])
    winners = {peer: sum(one.peer == peer for one in timed) for peer in ("highs", "scip", "cpsat")}
    sizes: dict[str, object] = {"instances": len(timed), "fastest": winners, "limit_s": LIMIT_S}
    sizes["censored"] = sum(not one.peer for one in timed)
    yield Row(f"{name}_ms", mine * 1e3, "ms", sizes)
    yield Row(f"{name}_fastest_peer_ms", theirs * 1e3, "ms", sizes)
    yield Row(f"{name}_ratio", mine / theirs, "fraction", sizes)
