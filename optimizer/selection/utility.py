"""What a set of active arms is worth to a query.

========== ===================================================== ==========================
utility    worth of S to query q                                  as a set function
========== ===================================================== ==========================
`BestOf`   max over i in S of quality_qn[q, i]                    monotone, submodular
`AnyRight` 1 − Π over i in S of (1 − right_qn[q, i])              monotone, submodular
`Table`    value_qs[q, S], measured for every set                 whatever was measured
========== ===================================================== ==========================

`BestOf` is facility location: a gate that picks the best expert. `AnyRight` is the chance that at least one of
independent experts is right: votes and verification can at best give that. `Table` holds fusions as they were measured;
`Table.traits` says which method is valid for it.

Shape letters: q queries, n arms, s sets of arms (2^n, bit i of the index set where arm i is in).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from optimizer.errors import ProblemError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# 2^n sets are held in memory.
TABLE_ARMS = 16
_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Traits:
    """What is true of a set function, and so which search may be trusted.

    Args:
        monotone: One more arm never lowers it.
        submodular: One more arm adds the less, the more are there.
    """

    monotone: bool
    submodular: bool


@dataclass(frozen=True)
class BestOf:
    """The best active arm answers.

    Args:
        quality_qn: Estimated quality of each arm's answer to each query, at least 0.

    Raises:
        ProblemError: Not a finite non-negative matrix with at least one row.
    """

    quality_qn: Floats

    def __post_init__(self) -> None:
        object.__setattr__(self, "quality_qn", _matrix(self.quality_qn, "quality_qn"))

    @property
    def queries(self) -> int:
        """Number of rows."""
        return len(self.quality_qn)

    @property
    def arms(self) -> int:
        """Number of arms that the utility speaks of."""
        return int(self.quality_qn.shape[1])

    def take(self, kept: list[int]) -> BestOf:
        """The utility of only these arms."""
        return BestOf(self.quality_qn[:, kept])

    @property
    def traits(self) -> Traits:
        """Facility location is both."""
        return Traits(monotone=True, submodular=True)

    def worth_q(self, active: tuple[int, ...], allowed_qn: Bools) -> Floats:
        """Worth of the set to each query, (q,)."""
        arms = list(active)
        return np.asarray(np.where(allowed_qn[:, arms], self.quality_qn[:, arms], 0.0).max(axis=1, initial=0.0))


@dataclass(frozen=True)
class AnyRight:
    """At least one of the active arms is right, each by its own chance.

    Args:
        right_qn: Probability that each arm answers each query right.

    Raises:
        ProblemError: Not a matrix of probabilities with at least one row.
    """

    right_qn: Floats

    def __post_init__(self) -> None:
        right_qn = _matrix(self.right_qn, "right_qn")
        if (right_qn > 1.0).any():
            raise ProblemError("right_qn holds probabilities, at most 1.")
        object.__setattr__(self, "right_qn", right_qn)

    @property
    def queries(self) -> int:
        """Number of rows."""
        return len(self.right_qn)

    @property
    def arms(self) -> int:
        """Number of arms that the utility speaks of."""
        return int(self.right_qn.shape[1])

    def take(self, kept: list[int]) -> AnyRight:
        """The utility of only these arms."""
        return AnyRight(self.right_qn[:, kept])

    @property
    def traits(self) -> Traits:
        """A weighted coverage is both."""
        return Traits(monotone=True, submodular=True)

    def worth_q(self, active: tuple[int, ...], allowed_qn: Bools) -> Floats:
        """Worth of the set to each query, (q,)."""
        arms = list(active)
        return any_right_q(np.where(allowed_qn[:, arms], self.right_qn[:, arms], 0.0))


def any_right_q(right_qn: Floats) -> Floats:
    """Probability that at least one of the columns is right, exact also where all of them are tiny."""
    with np.errstate(divide="ignore"):
        return np.asarray(-np.expm1(np.log1p(-right_qn).sum(axis=1)))


@dataclass(frozen=True)
class Table:
    """Fusions as they were measured, for every set of at most 16 arms.

    Args:
        value_qs: Worth of every set to each query (or task class), at least 0; 0 for the empty set. Bit i of a
            column's index tells whether arm i is in.

    Raises:
        ProblemError: Not 2^n columns, n at most 16, or an empty set that is worth something.
    """

    value_qs: Floats

    def __post_init__(self) -> None:
        value_qs = _matrix(self.value_qs, "value_qs")
        arms = value_qs.shape[1].bit_length() - 1
        if value_qs.shape[1] != 1 << arms or not 1 <= arms <= TABLE_ARMS:
            raise ProblemError(f"value_qs needs one column per set: 2^n of them, n from 1 to {TABLE_ARMS}.")
        if (value_qs[:, 0] != 0.0).any():
            raise ProblemError("value_qs[:, 0] is the empty set, which is worth 0.")
        object.__setattr__(self, "value_qs", value_qs)

    @property
    def queries(self) -> int:
        """Number of rows."""
        return len(self.value_qs)

    @property
    def arms(self) -> int:
        """Number of arms that the utility speaks of."""
        return int(self.value_qs.shape[1]).bit_length() - 1

    def take(self, kept: list[int]) -> Table:
        """The utility of only these arms."""
        sets_s = np.arange(1 << len(kept))
        columns_s = np.zeros(len(sets_s), dtype=np.int64)
        for bit, arm in enumerate(kept):
            columns_s |= ((sets_s >> bit) & 1) << arm
        return Table(self.value_qs[:, columns_s])

    @cached_property
    def traits(self) -> Traits:
        """Checked on every set and every arm. Cost: n² passes over the table."""
        monotone = all(bool((self._gain_qs(i) >= -_TOLERANCE).all()) for i in range(self.arms))
        submodular = all(self._diminishes(i, j) for i in range(self.arms) for j in range(i))
        return Traits(monotone, submodular)

    def worth_q(self, active: tuple[int, ...], allowed_qn: Bools) -> Floats:
        """Worth of the set to each query, (q,): of those of its arms that the query's class allows."""
        bits_n = np.zeros(self.arms, dtype=np.int64)
        bits_n[list(active)] = 1 << np.array(active, dtype=np.int64)
        return np.asarray(self.value_qs[np.arange(self.queries), allowed_qn @ bits_n])

    def _gain_qs(self, arm: int) -> Floats:
        """What the arm adds to every set without it, (q, s/2)."""
        without, with_ = self._halves(arm)
        return np.asarray(self.value_qs[:, with_] - self.value_qs[:, without])

    def _halves(self, arm: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        sets_s = np.arange(self.value_qs.shape[1])
        without = sets_s[(sets_s >> arm) & 1 == 0]
        return without, without | (1 << arm)

    def _diminishes(self, i: int, j: int) -> bool:
        """Whether arm i never gains from the presence of arm j."""
        without, with_ = self._halves(i)
        apart = (without >> j) & 1 == 0
        gain_without = self.value_qs[:, with_[apart]] - self.value_qs[:, without[apart]]
        gain_with = self.value_qs[:, with_[apart] | (1 << j)] - self.value_qs[:, without[apart] | (1 << j)]
        return bool((gain_with <= gain_without + _TOLERANCE).all())


Utility = BestOf | AnyRight | Table


def _matrix(values: Floats, name: str) -> Floats:
    matrix = np.ascontiguousarray(values, dtype=np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ProblemError(f"{name} must be a matrix with at least one query and one arm, not of shape {matrix.shape}.")
    if not np.isfinite(matrix).all() or (matrix < 0).any():
        raise ProblemError(f"{name} must be finite and at least 0.")
    return matrix
