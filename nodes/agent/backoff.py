"""How long to wait before dialling again. Pure."""

from __future__ import annotations

import random

BASE_S = 0.2
# After the fifth failure. With what connecting takes, a node is back within 7 s of its gateway.
CAP_S = 6.4


def full_jitter_s(failures: int, rng: random.Random) -> float:
    """Seconds to wait after so many failures in a row: uniform below a doubling, capped ceiling."""
    # Beyond 2**10 the cap holds anyway, and large exponents overflow.
    return rng.uniform(0.0, min(CAP_S, BASE_S * 2.0 ** min(failures, 10)))
