from __future__ import annotations

import builtins
import itertools
import math
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.allocation.convex import ConvexAllocator
from optimizer.allocation.problem import Allocation, AllocationProblem, AllocationStatus, ClassPlans, totals
from optimizer.allocation.rounding import round_to_plans, sentence, shadow_prices
from optimizer.allocation.slopes import allocate_by_slopes
from optimizer.errors import ProblemError, SolverFailed, SolverMissing

ALLOCATOR = ConvexAllocator(classes=5, plans=6)


def drawn(seed: int, *, where: float) -> AllocationProblem:
    """Random classes, some with ties, some without requests; the budget lies at `where` between least and most."""
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-6, 4)
    classes = []
    for c in range(rng.integers(1, 6)):
        plans = rng.integers(1, 7)
        energy_k = rng.choice(rng.random(plans), plans) * scale
        share = 0.0 if c and rng.random() < 0.2 else float(rng.random() + 0.01)
        classes.append(ClassPlans(f"c{c}", share, rng.random(plans), energy_k))
    problem = AllocationProblem(tuple(classes), 0.0)
    low = problem.weight_c @ [one.energy_k.min() for one in classes]
    high = problem.weight_c @ [one.energy_k.max() for one in classes]
    return replace(problem, budget=float(low + where * (high - low)) * (1.0 + 1e-12))


def at(problem: AllocationProblem, budget: float) -> float:
    return allocate_by_slopes(replace(problem, budget=budget)).quality


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 100_000), st.floats(0.0, 1.2))
def test_convex_program_and_merged_slopes_agree(seed: int, where: float) -> None:
    problem = drawn(seed, where=where)
    convex, merged = ALLOCATOR.solve(problem), allocate_by_slopes(problem)
    assert convex.status is merged.status is AllocationStatus.OPTIMAL
    assert convex.quality == pytest.approx(merged.quality, abs=2e-6)
    for one in (convex, merged):
        assert one.energy_j <= problem.budget * (1.0 + 1e-6) + 1e-12
        assert all(mix_k.sum() == pytest.approx(1.0) for mix_k in one.mix_c)
    # The dual lies between what one more joule would buy and what one less would cost.
    step = 1e-4 * max(one.energy_k.max() for one in problem.classes)
    if problem.budget - step >= merged.needed_j and convex.price_per_j * step > 1e-6:
        right = (at(problem, problem.budget + step) - merged.quality) / step
        left = (merged.quality - at(problem, problem.budget - step)) / step
        assert right * (1 - 1e-3) - 1e-6 / step <= convex.price_per_j <= left * (1 + 1e-3) + 1e-6 / step


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 100_000), st.floats(0.0, 1.0))
def test_rounding_is_feasible_and_its_gap_is_honest(seed: int, where: float) -> None:
    problem = drawn(seed, where=where)
    allocation = allocate_by_slopes(problem)
    rounded = round_to_plans(problem, allocation)
    assert rounded is not None
    best = max(
        quality
        for plans in itertools.product(*(range(len(one.energy_k)) for one in problem.classes))
        for quality, energy_j in [
            totals(problem, [np.eye(len(one.energy_k))[k] for one, k in zip(problem.classes, plans, strict=True)])
        ]
        if energy_j <= problem.budget_j * (1.0 + 1e-12)
    )
    assert rounded.energy_j <= problem.budget_j * (1.0 + 1e-9) + 1e-15
    assert rounded.quality <= best + 1e-9
    assert best <= rounded.quality + rounded.gap + 1e-9


def two_classes(budget: float) -> AllocationProblem:
    chat = ClassPlans("chat", 0.5, np.array([0.6, 0.68, 0.69]), np.array([1.0, 2.0, 4.0]))
    code = ClassPlans("code", 0.5, np.array([0.5, 0.52]), np.array([1.0, 2.0]))
    return AllocationProblem((chat, code), budget)


@pytest.mark.parametrize("solve", [allocate_by_slopes, ALLOCATOR.solve])
def test_shadow_prices_are_told_in_words(solve: object) -> None:
    assert callable(solve)
    problem = two_classes(1.25)
    allocation = solve(problem)
    assert isinstance(allocation, Allocation)
    assert allocation.price_per_j == pytest.approx(0.08)
    assert allocation.mix_c[0] == pytest.approx([0.5, 0.5, 0.0])
    chat, code = shadow_prices(problem, allocation)
    assert sentence(chat) == "+1 J per request buys +8 points for class chat"
    assert (chat.next, code.next) == (True, False)
    rich = two_classes(9.0)
    told = [sentence(price) for price in shadow_prices(rich, solve(rich))]
    assert told[0] == "class chat has its best plan: more joules buy nothing"


def test_watts_are_joules_times_requests_per_second() -> None:
    problem = two_classes(1.25)
    faster = tuple(replace(one, share=one.share * 20.0) for one in problem.classes)
    watts = AllocationProblem(faster, 25.0, per_request=False)
    assert allocate_by_slopes(watts).quality == pytest.approx(allocate_by_slopes(problem).quality)


@pytest.mark.parametrize("solve", [allocate_by_slopes, ALLOCATOR.solve])
def test_infeasible_is_a_status_that_names_what_is_needed(solve: object) -> None:
    assert callable(solve)
    problem = two_classes(0.5)
    allocation = solve(problem)
    assert (allocation.status, allocation.needed_j) == (AllocationStatus.INFEASIBLE, 1.0)
    assert round_to_plans(problem, allocation) is None
    assert shadow_prices(problem, allocation) == ()


def test_a_larger_problem_than_was_built_for_is_refused() -> None:
    plans = ClassPlans("many", 1.0, np.arange(9.0), np.arange(9.0))
    with pytest.raises(ValueError, match="larger"):
        ALLOCATOR.solve(AllocationProblem((plans,), 3.0))


def test_without_the_extra_the_error_says_what_to_install() -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **named: object) -> object:
        if name == "cvxpy":
            raise ImportError(name)
        return real(name, *rest, **named)  # type: ignore[arg-type]

    with mock.patch.object(builtins, "__import__", without), pytest.raises(SolverMissing, match="extra `plan`"):
        ConvexAllocator(classes=1, plans=1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ClassPlans("a", 1.0, np.zeros(0), np.zeros(0)),
        lambda: ClassPlans("a", 1.0, np.zeros(2), np.zeros(3)),
        lambda: ClassPlans("a", 1.0, np.array([math.nan]), np.zeros(1)),
        lambda: ClassPlans("a", -1.0, np.zeros(1), np.zeros(1)),
        lambda: ClassPlans("a", 1.0, np.zeros(1), np.array([-1.0])),
        lambda: AllocationProblem((), 1.0),
        lambda: AllocationProblem((ClassPlans("a", 0.0, np.zeros(1), np.zeros(1)),), 1.0),
        lambda: AllocationProblem((ClassPlans("a", 1.0, np.zeros(1), np.zeros(1)),) * 2, 1.0),
        lambda: two_classes(math.inf),
    ],
)
def test_what_cannot_be_meant_is_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(ProblemError):
        make()


def test_a_solver_that_gives_up_is_our_own_error() -> None:
    allocator = ConvexAllocator(classes=2, plans=3)
    program = allocator._program
    with mock.patch.object(program, "solve", side_effect=allocator._error("gave up")), pytest.raises(SolverFailed):
        allocator.solve(two_classes(1.25))
    allocator.solve(two_classes(1.25))
    with mock.patch.object(type(program), "status", "unbounded"), pytest.raises(SolverFailed, match="unbounded"):
        allocator.solve(two_classes(1.25))
