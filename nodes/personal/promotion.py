"""Whether a trained delta goes into service, and what a training says of it; the same for pictures and for texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.personal.delta import Delta
from nodes.personal.expert import LocalExpert, Shelf
from nodes.personal.judging import STAYS_Z, Verdict, beats

# Fewer corrections are left to the instant tier.
LEAST_CORRECTIONS = 20
TOO_FEW = {"promoted": False, "why": "too few corrections"}


@dataclass(frozen=True, eq=False)
class Taught:
    """A delta, and how it stands.

    Attributes:
        verdict: Its gate; its judgement on the corrections at `judged_n`.
        judged_n: Which corrections judged.
        samples: Forward and backward passes of one sample that this took.
    """

    delta: Delta
    verdict: Verdict
    judged_n: NDArray[np.bool_]
    samples: int


def put_in_service(
    shelf: Shelf, taught: Taught, serials_n: NDArray[np.int64], *, stays: Callable[[LocalExpert], bool]
) -> dict[str, Any]:
    """Promote a delta that beat the global expert, unless the expert in service is better; how that went.

    Args:
        serials_n: How many corrections came before each of those that it learned from, shape (n,).
        stays: Whether the expert in service is better than this one.
    """
    judgement = taught.verdict.judgement
    told = {"judged": judgement.judged, "local": judgement.local_fraction, "samples": taught.samples}
    if not taught.verdict.promoted:
        return {"promoted": False, "why": "not better than the global expert on judged corrections", **told}
    current = shelf.current()
    if current is not None and stays(current):
        return {"promoted": False, "why": "not as good as the expert in service", **told}
    version = shelf.promote_delta(
        taught.delta,
        gate=taught.verdict.gate,
        judgement=judgement,
        learned=len(serials_n),
        learned_until=int(serials_n.max()) + 1,
    )
    return {"promoted": True, "version": version, **told}


def outdone(taught: Taught, now_n: NDArray[np.bool_], judged_n: NDArray[np.bool_], *, lent: int = 0) -> bool:
    """Whether an expert, right at `now_n`, shape (n,), beats the new one on `judged_n`, which neither learned."""
    new_n = np.zeros(len(judged_n), np.bool_)
    new_n[taught.judged_n] = taught.verdict.right_n
    return beats(now_n[judged_n], new_n[judged_n], z=STAYS_Z, lent=lent)
