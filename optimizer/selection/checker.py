"""Walks a proof and works out the bound that it really proves, with nothing of the solver's code.

Shape letters: q queries, n arms, k set costs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from optimizer.selection.problem import Problem
from optimizer.selection.proof import BRANCH, DEAD, DOMINATED, DOMINATOR, FULL, LEAF, NODE, Proof
from optimizer.selection.utility import AnyRight, BestOf, Bools, Floats, Table

# Twice what `Problem.fits` allows; more would cost the bound as much, times the price of the limit.
_SLACK = 2e-12


class ProofError(Exception):
    """The proof is not one; the text says where it goes wrong."""


@dataclass(frozen=True)
class _Linear:
    """A linear bound: every set S of the box it was made in is worth at most constant + Σ over S beyond `inside`."""

    dual: int
    inside_n: Bools
    constant: float
    gain_n: Floats

    def most(self, box: _Box) -> float:
        added_n = box.inside_n & ~self.inside_n
        return float(self.constant + self.gain_n[added_n].sum() + np.maximum(self.gain_n[box.free_n], 0.0).sum())


@dataclass(frozen=True)
class _Box:
    inside_n: Bools
    free_n: Bools
    linear: _Linear | None = None

    def split(self, arm: int) -> tuple[_Box, _Box]:
        """With the arm, and without it."""
        free_n, inside_n = self.free_n.copy(), self.inside_n.copy()
        free_n[arm], inside_n[arm] = False, True
        return _Box(inside_n, free_n, self.linear), _Box(self.inside_n, free_n, self.linear)


def proven_bound(problem: Problem, proof: Proof) -> float:
    """The largest bound of any box that the proof closes; no feasible set is worth more.

    Raises:
        ProofError: A token that makes no sense, a box that is left open, a claim that does not hold.
    """
    if isinstance(problem.utility, Table):
        raise ProofError("tables have no linear bounds")
    if isinstance(problem.utility, AnyRight) and problem.routing is not None:
        if problem.routing.fanout != 1:
            raise ProofError("routed panels have no linear bounds")
        # With one expert per query, being right is all that it can be worth.
        problem = replace(problem, utility=BestOf(problem.utility.right_qn))
    if not _fits(problem, proof):
        raise ProofError("its dual vectors belong to a problem of another shape")
    return _Walk(problem, proof).bound()


def _fits(problem: Problem, proof: Proof) -> bool:
    """Whether the arrays have the shapes that the problem asks for."""
    duals, queries = len(proof.price_dk), problem.utility.queries
    any_right = isinstance(problem.utility, AnyRight)
    shapes = [
        len(proof.kind_t) == len(proof.index_t),
        proof.price_dk.shape == (duals, 1 + len(problem.set_costs.limit_k)),
        proof.level_d.shape == (duals, len(problem.arms) if any_right else queries),
        not any_right or (proof.taken_dq is not None and proof.taken_dq.shape == (duals, queries)),
    ]
    return all(shapes)


class _Walk:
    """One pass over the tokens of a proof."""

    def __init__(self, problem: Problem, proof: Proof) -> None:
        self._problem, self._proof = problem, proof
        self._tokens = list(zip(proof.kind_t.tolist(), proof.index_t.tolist(), strict=True))
        self._at = 0
        arms = len(problem.arms)
        costs = problem.set_costs
        self._limit_k = costs.limit_k * (1.0 + _SLACK)
        fits_n: Bools = np.asarray((costs.cost_kn <= self._limit_k[:, None]).all(axis=0))
        eligible_n: Bools = fits_n & np.asarray(problem.allowed_qn.any(axis=0))
        self._root = _Box(np.zeros(arms, dtype=bool), eligible_n)
        self._worth_nq, self._joules_nq = _figures(problem)

    def bound(self) -> float:
        stack, highest = [self._without_dominated(self._root)], -math.inf
        while stack:
            box = stack.pop()
            while (kind := self._peek()) in (NODE, BRANCH):
                index = self._next()
                if kind == NODE:
                    box = replace(box, linear=self._linear(box, index))
                    continue
                if not 0 <= index < len(box.free_n) or not box.free_n[index]:
                    raise ProofError(f"token {self._at}: branches on an arm that is not free")
                box, without = box.split(index)
                stack.append(without)
            highest = max(highest, self._close(box, kind, self._next()))
        if self._at != len(self._tokens):
            raise ProofError("tokens are left over")
        return highest

    def _peek(self) -> int:
        if self._at >= len(self._tokens):
            raise ProofError("it ends with boxes left open")
        return int(self._tokens[self._at][0])

    def _next(self) -> int:
        self._at += 1
        return int(self._tokens[self._at - 1][1])

    def _close(self, box: _Box, kind: int, index: int) -> float:
        if kind == LEAF:
            if box.linear is None or box.linear.dual != index:
                raise ProofError(f"token {self._at}: a leaf without the linear bound that it names")
            return box.linear.most(box)
        if kind == FULL:
            return self._problem.value(tuple(np.flatnonzero(box.inside_n | box.free_n).tolist()))
        if kind == DEAD:
            # The problem's own test: a sum that equals its limit but for rounding is not dead.
            if self._problem.set_costs.fits(np.flatnonzero(box.inside_n).tolist()):
                raise ProofError(f"token {self._at}: called dead, but it fits")
            return -math.inf
        raise ProofError(f"token {self._at}: kind {kind} does not belong here")

    def _without_dominated(self, box: _Box) -> _Box:
        free_n = box.free_n.copy()
        while self._at < len(self._tokens) and self._tokens[self._at][0] == DOMINATED:
            arm = self._next()
            if self._peek() != DOMINATOR:
                raise ProofError(f"token {self._at}: a dominated arm without its dominator")
            other = self._next()
            known = all(0 <= n < len(free_n) and free_n[n] for n in (arm, other))
            if not known or arm == other or not self._dominates(other, arm):
                raise ProofError(f"token {self._at}: arm {other} cannot stand in for arm {arm}")
            free_n[arm] = False
        return replace(box, free_n=free_n)

    def _dominates(self, other: int, arm: int) -> bool:
        if isinstance(self._problem.utility, AnyRight):
            return False  # a set that holds both is worth more than either
        costs = self._problem.set_costs
        # What all arms together do not exceed is no reason to prefer one.
        binds_k = costs.cost_kn[:, self._root.free_n].sum(axis=1) > costs.limit_k
        cost_kn = costs.cost_kn[binds_k]
        mine_q, theirs_q = self._worth_nq[arm], self._worth_nq[other]
        cheaper_q = (mine_q <= 0.0) | (self._joules_nq[other] <= self._joules_nq[arm])
        return bool((cost_kn[:, other] <= cost_kn[:, arm]).all() and (theirs_q >= mine_q).all() and cheaper_q.all())

    def _linear(self, box: _Box, dual: int) -> _Linear:
        if not 0 <= dual < len(self._proof.price_dk):
            raise ProofError(f"token {self._at}: names a dual vector that is not there")
        price_k = np.maximum(self._proof.price_dk[dual], 0.0)
        if not np.isfinite(price_k).all() or not np.isfinite(self._proof.level_d[dual]).all():
            raise ProofError(f"dual vector {dual} is not finite")
        if isinstance(self._problem.utility, BestOf):
            constant, gain_n = self._best_of(box, price_k[0], self._proof.level_d[dual])
        else:
            constant, gain_n = self._any_right(box, dual)
        costs = self._problem.set_costs
        left_k = self._limit_k - costs.cost_kn[:, box.inside_n].sum(axis=1)
        return _Linear(dual, box.inside_n, constant + float(price_k[1:] @ left_k), gain_n - price_k[1:] @ costs.cost_kn)

    def _best_of(self, box: _Box, price: float, level_q: Floats) -> tuple[float, Floats]:
        priced_nq = self._worth_nq - price * self._joules_nq
        covered_q = priced_nq[box.inside_n].max(axis=0, initial=0.0)
        level_q = np.maximum(level_q, covered_q)
        limit_j = 0.0 if self._problem.routing is None else self._problem.routing.mean_energy_j
        return float(level_q.sum() + price * limit_j), np.maximum(priced_nq - level_q, 0.0).sum(axis=1)

    def _any_right(self, box: _Box, dual: int) -> tuple[float, Floats]:
        """Tangents at the point, of the function that was taken for each query."""
        assert self._proof.taken_dq is not None
        right_nq, weights_q = self._worth_nq, self._problem.weights_q
        with np.errstate(divide="ignore"):
            log_wrong_q = np.log1p(-right_nq[box.inside_n]).sum(axis=0)
        missed_q, got = weights_q * np.exp(log_wrong_q), float(-weights_q @ np.expm1(log_wrong_q))
        point_n = np.where(box.free_n, np.clip(self._proof.level_d[dual], 0.0, 1.0), 0.0)
        order = [int(n) for n in np.argsort(-point_n, kind="stable") if point_n[n] > 1e-9]
        taken_q = self._proof.taken_dq[dual]
        slope_nq, value_q = _smooth(right_nq, point_n)
        for size in range(len(order) + 1):
            rows_q = taken_q == size
            if rows_q.any():
                slope_nq[:, rows_q], value_q[rows_q] = _cut(right_nq[:, rows_q], point_n, order[:size])
        gain_n = np.where(box.free_n, slope_nq @ missed_q, 0.0)
        constant = float(got + missed_q @ value_q - gain_n @ point_n)
        return constant, gain_n


def _figures(problem: Problem) -> tuple[Floats, Floats]:
    """Weighted worth and joules by arm, or with any-right the probabilities; 0 where a class does not allow the arm."""
    if isinstance(problem.utility, AnyRight):
        right_qn = np.where(problem.allowed_qn, problem.utility.right_qn, 0.0)
        return right_qn.T.copy(), np.zeros(right_qn.T.shape)
    assert isinstance(problem.utility, BestOf)
    worth_qn = np.where(problem.allowed_qn, problem.utility.quality_qn, 0.0) * problem.weights_q[:, None]
    if problem.routing is None:
        return worth_qn.T.copy(), np.zeros(worth_qn.T.shape)
    joules_qn = np.where(problem.allowed_qn, problem.run_energy_qn, 0.0) * problem.weights_q[:, None]
    if problem.routing.mean_energy_j <= 0.0:
        # Only what costs nothing may run.
        worth_qn, joules_qn = np.where(joules_qn > 0.0, 0.0, worth_qn), np.zeros(joules_qn.shape)
    return worth_qn.T.copy(), joules_qn.T.copy()


def _smooth(right_nq: Floats, point_n: Floats) -> tuple[Floats, Floats]:
    """1 − exp(−Σ a z) for every query: slopes (n, q) and value (q,)."""
    with np.errstate(divide="ignore"):
        # exp(-40) is below what a sum of chances can hold; certainty would make the tangent infinite.
        steep_nq = np.minimum(-np.log1p(-right_nq), 40.0)
    height_q = point_n @ steep_nq
    return steep_nq * np.exp(-height_q), -np.expm1(-height_q)


def _cut(right_nq: Floats, point_n: Floats, inside: list[int]) -> tuple[Floats, Floats]:
    """1 − P_T + P_T Σ outside T of p z: slopes and value."""
    wrong_q, right_q = np.ones(right_nq.shape[1]), np.zeros(right_nq.shape[1])
    for n in inside:
        # Not 1 - wrong: that would lose what small probabilities add.
        right_q += wrong_q * right_nq[n]
        wrong_q *= 1.0 - right_nq[n]
    slope_nq = right_nq * wrong_q
    slope_nq[inside] = 0.0
    return slope_nq, right_q + point_n @ slope_nq
