"""A proof that no feasible set beats a bound: the search tree with a dual vector at every leaf.

The tree is written in preorder. `BRANCH i` is followed by the subtree of the sets with arm i and then by the subtree of
those without it; together the leaves cover every set. A leaf ends in one of:

- `LEAF d`: no set of the box is worth more than the relaxation with dual vector d gives;
- `FULL`: everything still free is taken, so the box is worth what its largest set is worth;
- `DEAD`: the arms that are in break a limit by themselves.

What a dual vector holds depends on the utility, see `certify`. The checker computes every bound anew from the problem:
a wrong dual vector can only make a proof fail, never make a wrong bound pass.

Shape letters: t tokens, d dual vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BRANCH, LEAF, FULL, DEAD = 0, 1, 2, 3


@dataclass(frozen=True)
class Proof:
    """The tree of a search.

    Args:
        kind_t: `BRANCH`, `LEAF`, `FULL` or `DEAD`.
        index_t: The arm of a branch, the dual vector of a leaf, otherwise 0.
        dual_d: One vector per row.
    """

    kind_t: NDArray[np.int32]
    index_t: NDArray[np.int32]
    dual_d: NDArray[np.float64]
