"""How long to wait before dialling again. Pure."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

BASE_S = 0.2
# After the fifth failure. With what connecting takes, a node is back within 7 s of its gateway.
CAP_S = 6.4
# A gateway that asks for more than this has something else in mind.
MOST_SPREAD_S = 30.0


@dataclass(frozen=True)
class Spread:
    """What a gateway says: over how many seconds nodes that lose the stream are to come back."""

    seconds: float


def full_jitter_s(failures: int, rng: random.Random, *, spread_s: float = 0.0) -> float:
    """Seconds to wait before dialling again.

    Args:
        failures: How many in a row: uniform below a doubling, capped ceiling.
        rng: Draws.
        spread_s: Over how many seconds at least the gateway wants its nodes to come back.
    """
    # Beyond 2**10 the cap holds anyway, and large exponents overflow.
    return rng.uniform(0.0, max(spread_s, min(CAP_S, BASE_S * 2.0 ** min(failures, 10))))


def checked_spread_s(told_s: float) -> float:
    """What a gateway said, within reason; 0 where it is no number."""
    return min(max(told_s, 0.0), MOST_SPREAD_S) if math.isfinite(told_s) else 0.0
