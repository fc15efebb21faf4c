"""A proof that no feasible set beats a bound: the search tree, with a linear bound wherever a box was closed.

The tree is written in preorder over boxes (arms that are in, arms that are free; the rest is out):

- `DOMINATED i`, `DOMINATOR j`, only at the start and only for best-of: j can stand in for i in every set, so i is out.
- `NODE d`: from here on, sets are bounded by the linear bound that dual vector d gives *in this box*.
- `BRANCH i`: followed by the subtree of the sets with arm i, then by that of the sets without it.
- `LEAF d`: the linear bound of the nearest `NODE` above, which is d, closes the box.
- `FULL`: the box is worth what its largest set is worth (monotonicity).
- `DEAD`: the arms that are in break a limit by themselves.

A dual vector is a price of mean energy, a multiplier for each set cost, and

- best-of: a level U_q per query. Every set is worth at most Σ_q U_q plus, for each arm that it adds,
  Σ_q max(0, v_iq − U_q), for any U_q that is at least what the arms that are in give.
- any-right: a point z per arm and per query which concave function was taken there, −1 for 1 − exp(−Σ a_i z_i), or the
  number of arms in the cut's T, the first so many in the order of z. The tangents at the point are the linear bound.

Any dual vector gives *some* valid bound, so the checker need not trust it, or the search: a wrong one can only make a
proof fail.

Shape letters: t tokens, d dual vectors, k set costs, q queries, n arms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BRANCH, LEAF, FULL, DEAD, NODE, DOMINATED, DOMINATOR = range(7)


@dataclass(frozen=True)
class Proof:
    """The tree of a search, in the units of its problem.

    Args:
        kind_t: Token kinds.
        index_t: The arm or the dual vector that a token names, otherwise 0.
        price_dk: Price of mean energy, then one multiplier per set cost of the problem.
        level_d: Best-of: levels (d, q). Any-right: points (d, n).
        taken_dq: Any-right: which concave function each query's tangent is of; None elsewhere.
    """

    kind_t: NDArray[np.int32]
    index_t: NDArray[np.int32]
    price_dk: NDArray[np.float64]
    level_d: NDArray[np.float64]
    taken_dq: NDArray[np.float64] | None = None
