"""What is under way on one node, whether it takes more, and how long work that comes now waits there.

The wait that is expected is the sum of what is expected of the work ahead. What it really is strays from that by what
those pieces of work stray by together, so its error is learned per node in units of that spread: a wait of w behind n
pieces of work has a spread of w / √n. Without a bound on the wait, requests for a cheap node would be admitted up to
the very end of their milliseconds, where half of them would be late.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from orchestrator.fleet.shedding import Shedding
from orchestrator.routing.margins import ConformalBound
from orchestrator.types import Arm

# Before waits were seen: what 99 % of normal sums stay below, in standard deviations ...
PRIOR_DEVIATIONS = 2.33
# ... of times that are lognormal between what was announced, within these spreads.
PRIOR_SPREADS = (0.5, 4.0)
Z95 = 1.645


def prior_spreads(arms: Iterable[Arm]) -> float:
    """By how many spreads waits may be longer than expected, by the most uneven times that were announced."""
    uneven = max((arm.p95_ms / arm.p50_ms for arm in arms if arm.p50_ms > 0.0), default=1.0)
    variance = (math.log(max(1.0, uneven)) / Z95) ** 2
    deviation = math.sqrt(math.exp(min(2.0 * variance, 50.0)) - math.exp(min(variance, 25.0)))
    least, most = PRIOR_SPREADS
    return min(max(least, PRIOR_DEVIATIONS * deviation), most)


@dataclass(frozen=True, slots=True)
class Ahead:
    """What was ahead of a piece of work when it was sent."""

    pending: int
    wait_ms: float


@dataclass
class NodeLoad:
    """What is under way on one node.

    Args:
        concurrency: Pieces of work that run at once.
        energy_ratio: Actual over predicted joules.
        added_ms: Milliseconds on top of what was announced.
        wait_error: By how many spreads waits were longer than expected.
        queue_limit: Pieces of work that may wait; None for any number.
    """

    concurrency: int
    energy_ratio: ConformalBound
    added_ms: ConformalBound
    wait_error: ConformalBound
    queue_limit: int | None = None
    pending: int = 0
    pending_ms: float = 0.0
    sent: int = 0
    routable: bool = True
    # The waits that its arms were last given, and for how long they were said to be closed.
    told_ms: tuple[float, float] | None = None
    waits: bool = False
    closed_ms: float = 0.0
    shedding: Shedding = field(default_factory=Shedding)
    arms: list[int] = field(default_factory=list)

    @property
    def wait_ms(self) -> float:
        """Predicted wait for a free slot."""
        if self.pending < self.concurrency:
            return 0.0
        return self.pending_ms / self.concurrency

    @property
    def wait_bound_ms(self) -> float:
        """The same at the promise's quantile."""
        wait_ms = self.wait_ms
        return wait_ms * (1.0 + max(0.0, self.wait_error.bound) / math.sqrt(self.pending)) if wait_ms else 0.0

    @property
    def has_room(self) -> bool:
        """Whether the node would take another piece of work rather than refuse it."""
        return self.queue_limit is None or self.pending < self.concurrency + self.queue_limit

    @property
    def closed_now_ms(self) -> float:
        """For how long the node takes no new requests: 0 where it does, infinite where it would refuse any work."""
        return self.shedding.closed_ms(self) if self.has_room else math.inf

    @property
    def ahead(self) -> Ahead:
        """What is ahead of work that comes now."""
        return Ahead(self.pending, self.wait_ms)

    def waited(self, ahead: Ahead, actual_ms: float) -> bool:
        """Learn how long a piece of work waited, by what its node says; true when the bound was recomputed."""
        if ahead.wait_ms <= 0.0 or not 0.0 <= actual_ms < math.inf:
            return False
        return self.wait_error.observe((actual_ms / ahead.wait_ms - 1.0) * math.sqrt(ahead.pending))
