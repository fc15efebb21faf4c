"""Sharing a budget among task classes: the parametrised convex program against the merge of slopes.

Both solve the same relaxation; they must agree before their times count.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from optimizer.allocation.convex import ConvexAllocator
from optimizer.allocation.problem import AllocationProblem, ClassPlans
from optimizer.allocation.rounding import round_to_plans
from optimizer.allocation.slopes import allocate_by_slopes
from tests.bench.harness import Bar, Row, main

CLASSES, PLANS, INSTANCES = 8, 24, 60
BARS = (
    Bar("disagreement_worst", 1e-6, "<="),
    # "Milliseconds" is the requirement; one digit of them.
    Bar("resolve_ms", 10.0, "<="),
)


def draw_problem(rng: np.random.Generator) -> AllocationProblem:
    """Classes with frontiers of diminishing returns and some noise, a budget somewhere inside."""
    classes = []
    for c in range(CLASSES):
        energy_k = np.sort(rng.lognormal(0.0, 1.5, PLANS))
        quality_k = 0.9 - 0.5 * np.exp(-energy_k / rng.lognormal(0.0, 1.0)) + rng.normal(0.0, 0.01, PLANS)
        classes.append(ClassPlans(f"class-{c}", float(rng.random() + 0.1), quality_k, energy_k))
    return AllocationProblem(tuple(classes), float(rng.uniform(0.3, 4.0)))


def _cpu_ms(work: Callable[[], object]) -> float:
    started_s = time.process_time()
    work()
    return (time.process_time() - started_s) * 1e3


def _ms(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return (time.perf_counter() - started_s) * 1e3


def _median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def run() -> list[Row]:
    """Times of both, and how far apart they are."""
    rng = np.random.default_rng(0)
    problems = [draw_problem(rng) for _ in range(INSTANCES)]
    ConvexAllocator(1, 1).solve(AllocationProblem((ClassPlans("warm", 1.0, np.ones(1), np.ones(1)),), 2.0))
    build_ms = _median([_ms(lambda: ConvexAllocator(CLASSES, PLANS)) for _ in range(10)])
    allocator = ConvexAllocator(CLASSES, PLANS)
    first_ms = _ms(lambda: allocator.solve(problems[0]))
    apart = max(abs(allocator.solve(one).quality - allocate_by_slopes(one).quality) for one in problems)
    gaps = [rounded.gap for one in problems if (rounded := round_to_plans(one, allocate_by_slopes(one))) is not None]
    figures = {
        "disagreement_worst": (float(apart), "fraction"),
        "build_ms": (build_ms, "ms"),
        "first_solve_ms": (first_ms, "ms"),
        "resolve_ms": (_median([_ms(lambda one=one: allocator.solve(one)) for one in problems]), "ms"),  # type: ignore[misc]
        "resolve_cpu_ms": (_median([_cpu_ms(lambda one=one: allocator.solve(one)) for one in problems]), "ms"),  # type: ignore[misc]
        "slopes_ms": (_median([_ms(lambda one=one: allocate_by_slopes(one)) for one in problems]), "ms"),  # type: ignore[misc]
        "rounding_gap_median": (_median(gaps), "fraction"),
        "rounding_gap_worst": (max(gaps), "fraction"),
    }
    sizes: dict[str, object] = {"classes": CLASSES, "plans": PLANS, "instances": INSTANCES}
    return [Row(name, value, unit, sizes) for name, (value, unit) in figures.items()]


if __name__ == "__main__":
    main(stem="allocation", run=run, bars=BARS)
