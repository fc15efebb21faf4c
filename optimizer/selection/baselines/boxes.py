"""Branch, reduce and bound over boxes of sets (discrete monotonic optimisation, arXiv 2501.09410).

Valid where objective and limits are monotone: one more arm never lowers the objective nor frees a limit. Both modes are
(in mode ``routed`` a larger set has more policies to choose from), unless a measured `Table` is not in mode
``worst_case``: then every set is looked at.

`solve_by_corners` is the paper's method: best first, and a box is worth what its top corner is worth. `solve_by_boxes`
goes depth first with the strongest bounds that are valid for the problem.

Shape letters: n eligible arms.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from optimizer.errors import ProblemError
from optimizer.selection.baselines.exhaustive import solve_exhaustively
from optimizer.selection.baselines.gains import Gains, gains_of
from optimizer.selection.baselines.ground import Ground, ground_of, infeasible
from optimizer.selection.baselines.lagrange import PricedPanels
from optimizer.selection.baselines.panels import Panels
from optimizer.selection.baselines.relaxations import Box, Corners, Relaxation, Submodular, View
from optimizer.selection.problem import Problem
from optimizer.selection.solution import Solution, Status
from optimizer.selection.utility import Bools, Table

NODE_LIMIT = 200_000
# Relative to the worth without any limit: the rounding of sums in a different order.
_TOLERANCE = 1e-12


def solve_by_boxes(
    problem: Problem, *, node_limit: int = NODE_LIMIT, should_stop: Callable[[], bool] | None = None
) -> Solution:
    """Find the best active set with the strongest bounds that are valid.

    Args:
        problem: Of either mode, with any utility.
        node_limit: Most boxes to look at; the same limit always gives the same answer.
        should_stop: Asked before each box.

    Returns:
        `OPTIMAL` where the bound meets the objective, `FEASIBLE` with a valid bound when it was stopped first.

    Cost: a `Table` in mode ``worst_case`` costs one pass over it, always, because to check what it is would cost more.
    """
    ground = ground_of(problem)
    if not ground.arms:
        return infeasible("boxes")
    if problem.routing is None and isinstance(problem.utility, Table):
        return solve_exhaustively(problem)
    if problem.routing is None:
        gains = gains_of(ground)
        search = _Search(ground, Submodular(ground, gains), _corner(ground, gains))
        search.run(node_limit, should_stop)
        return search.solution("boxes")
    panels = Panels(ground)
    search = _Search(ground, PricedPanels(ground, panels), panels.scale)
    search.run(node_limit, should_stop)
    return replace(search.solution("boxes"), price_per_j=panels.policy(search.best_n).price_per_j)


def solve_by_corners(
    problem: Problem, *, node_limit: int = NODE_LIMIT, should_stop: Callable[[], bool] | None = None
) -> Solution:
    """Find the best active set as the paper does.

    Args:
        problem: Of either mode; a `Table` in mode ``worst_case`` must be monotone.
        node_limit: Most boxes to look at.
        should_stop: Asked before each box.

    Raises:
        ProblemError: The table is not monotone: the method would answer wrongly.
    """
    if problem.routing is None and not problem.utility.traits.monotone:
        raise ProblemError("Boxes need an objective that is monotone in the set; this table is not.")
    ground = ground_of(problem)
    if not ground.arms:
        return infeasible("corners")
    gains = gains_of(ground)
    scale = _corner(ground, gains) if problem.routing is None else Panels(ground).scale
    search = _Search(ground, Corners(ground, gains), scale, best_first=True, until_stable=True)
    search.run(node_limit, should_stop)
    return search.solution("corners")


def _corner(ground: Ground, gains: Gains) -> float:
    return gains.value(np.ones(len(ground.arms), dtype=np.bool_))


@dataclass
class _Search:
    """The state of one run: the best set so far, and the boxes that are left."""

    ground: Ground
    relaxation: Relaxation
    scale: float
    best_first: bool = False
    until_stable: bool = False
    best_n: Bools = field(init=False)
    objective: float = field(init=False, default=-np.inf)
    explored: int = field(init=False, default=0)
    _open: list[tuple[float, int, Box]] = field(init=False, default_factory=list)
    _pushed: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        arms = len(self.ground.arms)
        self.best_n = np.zeros(arms, dtype=np.bool_)
        everything_n = np.ones(arms, dtype=np.bool_)
        # Whatever happens next, there is something to return.
        for n in range(arms):
            self._offer(np.arange(arms) == n)
        self._push(Box(~everything_n, everything_n, self.relaxation.value(everything_n)))

    @property
    def enough(self) -> float:
        """A box with no more than this holds nothing better."""
        return self.objective + _TOLERANCE * self.scale

    def run(self, node_limit: int, should_stop: Callable[[], bool] | None) -> None:
        while self._open and self.explored < node_limit and not (should_stop and should_stop()):
            box = heapq.heappop(self._open)[2]
            if box.bound > self.enough:
                self.explored += 1
                self._explore(box)

    def solution(self, solver: str) -> Solution:
        bound = max([self.objective, *(box.bound for _, _, box in self._open if box.bound > self.enough)])
        status = Status.OPTIMAL if bound <= self.enough else Status.FEASIBLE
        active = self.ground.indices(self.best_n)
        return Solution(status, active, self.objective, bound, self.explored, solver)

    def _offer(self, chosen_n: Bools) -> None:
        if not chosen_n.any():
            return
        objective = self.relaxation.value(chosen_n)
        if objective > self.objective:
            self.best_n, self.objective = chosen_n.copy(), objective

    def _push(self, box: Box) -> None:
        self._pushed += 1
        # Depth first: the box that was pushed last. Best first: among equals the oldest.
        rank = (-box.bound, self._pushed) if self.best_first else (0.0, -self._pushed)
        heapq.heappush(self._open, (*rank, box))

    def _explore(self, box: Box) -> None:
        """Reduce, bound and project a box; branch on what is left."""
        reduced: Box | None = box
        while reduced is not None:
            reduced = self._affordable(reduced)
            if self.ground.fits(reduced.top_n):
                self._offer(reduced.top_n)
                return
            view = self.relaxation.look(reduced, enough=self.enough)
            self._offer(view.reached_n)
            if view.bound <= self.enough:
                return
            before, reduced = reduced, self._fixed(reduced, view)
            settled = reduced is not None and (reduced.free_n == before.free_n).all()
            if reduced is not None and (settled or not self.until_stable):
                self._branch(reduced, view)
                return

    def _affordable(self, box: Box) -> Box:
        """Without the arms that no set of the box can pay for."""
        top_n = box.inside_n | (box.top_n & self.ground.addable_n(box.inside_n))
        return Box(box.inside_n, top_n, box.bound, box.hint)

    def _fixed(self, box: Box, view: View) -> Box | None:
        """With the arms that every better set has, without those that none has; None where nothing can be better."""
        must_n = box.free_n & (view.without_n <= self.enough)
        cannot_n = box.free_n & (view.with_n <= self.enough)
        inside_n = box.inside_n | must_n
        if (must_n & cannot_n).any() or not self.ground.fits(inside_n):
            return None
        return Box(inside_n, box.top_n & ~cannot_n, view.bound, view.hint)

    def _branch(self, box: Box, view: View) -> None:
        if not box.free_n.any():
            self._offer(box.inside_n)
            return
        chosen = int(np.where(box.free_n, view.rank_n, -np.inf).argmax())
        here_n = np.arange(len(box.top_n)) == chosen
        # What has the arm is pushed last, and so looked at first.
        self._push(Box(box.inside_n, box.top_n & ~here_n, min(view.bound, float(view.without_n[chosen])), view.hint))
        if self.ground.fits(box.inside_n | here_n):
            self._push(Box(box.inside_n | here_n, box.top_n, min(view.bound, float(view.with_n[chosen])), view.hint))
