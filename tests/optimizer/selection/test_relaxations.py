"""What the boxes of the baselines are bounded with: every bound against all sets of the box."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from optimizer.selection.baselines.gains import AnyGains, Gains, gains_of
from optimizer.selection.baselines.ground import Ground, ground_of
from optimizer.selection.baselines.knapsack import fill
from optimizer.selection.baselines.lagrange import PricedPanels
from optimizer.selection.baselines.panels import Panels
from optimizer.selection.baselines.relaxations import Box, Corners, Relaxation, Submodular
from optimizer.selection.problem import Mode, Problem
from optimizer.selection.utility import Bools
from tests.property.selection_problems import make_problem, worth_scale


def subsets(free_n: Bools) -> Iterator[Bools]:
    """Every set of free arms."""
    arms = np.flatnonzero(free_n)
    for taken in itertools.product([False, True], repeat=len(arms)):
        chosen_n = np.zeros(len(free_n), dtype=np.bool_)
        chosen_n[arms] = taken
        yield chosen_n


def test_a_knapsack_by_hand() -> None:
    filling = fill(np.array([6.0, 4.0, 1.0]), np.array([[2.0, 2.0, 2.0]]), np.array([3.0]))
    # All of the first and half of the second: 2 per unit is the price.
    assert filling.bound == pytest.approx(8.0)
    assert filling.surplus_n.tolist() == pytest.approx([2.0, 0.0, -3.0])
    assert filling.share_n.tolist() == pytest.approx([1.0, 0.5, 0.0])


@pytest.mark.parametrize("seed", range(20))
def test_no_set_gains_more_than_the_knapsacks_allow(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gain_n, cost_kn = rng.random(7), rng.integers(0, 4, (3, 7)).astype(float)
    room_k = cost_kn.sum(axis=1) * rng.uniform(0.0, 0.8, 3)
    filling = fill(gain_n, cost_kn, room_k)
    for chosen_n in subsets(np.ones(7, dtype=np.bool_)):
        if (cost_kn[:, chosen_n].sum(axis=1) <= room_k).all():
            worth = float(gain_n[chosen_n].sum())
            assert worth <= filling.bound + 1e-12
            # Surpluses say what the bound is for sets that lack, or have, one arm.
            assert (worth <= filling.bound - np.maximum(filling.surplus_n, 0.0) * ~chosen_n + 1e-12).all()
            assert (worth <= filling.bound - np.maximum(-filling.surplus_n, 0.0) * chosen_n + 1e-12).all()


@pytest.mark.parametrize("utility", ["best_of", "any_right"])
def test_gains_are_differences(utility: str) -> None:
    problem = make_problem(utility, Mode.WORST_CASE, 5)
    ground = ground_of(problem)
    fast: Gains = gains_of(ground)
    slow = AnyGains(lambda chosen_n: problem.value(ground.indices(chosen_n)))
    slack = 1e-12 * worth_scale(problem)
    for chosen_n in itertools.islice(subsets(np.ones(len(ground.arms), dtype=np.bool_)), 0, None, 5):
        assert abs(fast.value(chosen_n) - slow.value(chosen_n)) <= slack
        assert np.abs(fast.gain_n(chosen_n) - slow.gain_n(chosen_n)).max() <= slack
        assert np.abs(fast.loss_n(chosen_n) - slow.loss_n(chosen_n)).max() <= slack


def relaxations(ground: Ground) -> Iterator[Relaxation]:
    """Those that are valid for the problem."""
    yield Corners(ground, gains_of(ground))
    if ground.problem.routing is not None:
        yield PricedPanels(ground, Panels(ground))
    elif ground.problem.utility.traits.submodular:
        yield Submodular(ground, gains_of(ground))


def random_box(rng: np.random.Generator, ground: Ground) -> Box:
    """A box whose inside fits and whose top does not need to."""
    nothing_n = np.zeros(len(ground.arms), dtype=np.bool_)
    inside_n = ground.extended(nothing_n, rng.random(len(nothing_n)) < 0.2, np.ones(len(nothing_n)))
    return Box(inside_n, inside_n | (rng.random(len(ground.arms)) < 0.7), np.inf)


def check_view(problem: Problem, ground: Ground, relaxation: Relaxation, box: Box) -> None:
    """Every feasible set of the box is below what the relaxation says."""
    slack, view = 1e-9 * worth_scale(problem), relaxation.look(box, enough=-worth_scale(problem))
    for added_n in subsets(box.free_n):
        chosen_n = box.inside_n | added_n
        if not ground.fits(chosen_n):
            continue
        worth = relaxation.value(chosen_n)
        assert worth <= view.bound + slack
        assert (worth <= view.without_n + slack)[box.free_n & ~chosen_n].all()
        assert (worth <= view.with_n + slack)[box.free_n & chosen_n].all()
    assert ground.fits(view.reached_n)
    assert not (view.reached_n & ~box.top_n).any()


@pytest.mark.parametrize("mode", [Mode.WORST_CASE, Mode.ROUTED])
@pytest.mark.parametrize("utility", ["best_of", "any_right", "table"])
def test_every_bound_of_a_box_is_valid(utility: str, mode: Mode) -> None:
    rng, checked = np.random.default_rng(7), 0
    for seed in range(90):
        problem = make_problem(utility, mode, seed)
        ground = ground_of(problem)
        if not 1 <= len(ground.arms) <= 8 or (mode is Mode.WORST_CASE and not problem.utility.traits.monotone):
            continue
        box = random_box(rng, ground)
        if ground.fits(box.top_n):
            continue
        for relaxation in relaxations(ground):
            check_view(problem, ground, relaxation, box)
            checked += 1
    assert checked > 5
