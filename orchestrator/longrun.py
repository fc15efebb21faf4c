"""What holds over many requests: long-run budgets and the guard of the gate, and how they stand."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LongRun:
    """What a task may spend over many requests: joules per request or watts, averaged.

    None means not said; 0 says that there is no long-run budget, whatever is set for all tasks. Saying one takes the
    place of the other.
    """

    average_energy_j: float | None = None
    average_power_w: float | None = None

    @property
    def said(self) -> bool:
        """Whether anything was said."""
        return self.average_energy_j is not None or self.average_power_w is not None

    @property
    def limits(self) -> bool:
        """Whether there is a budget."""
        return bool(self.average_energy_j or self.average_power_w)


NO_LONG_RUN = LongRun()


@dataclass(frozen=True)
class Share:
    """A task's part of a budget that several tasks share.

    Args:
        energy_j: Joules per request, averaged over many.
        quality_fraction: What they are expected to buy.
        points_per_j: Percentage points that one more joule for each of the task's requests would buy.
        next: Whether it is the task that would get the next joule.
        gap_fraction: How much more quality of the mean request another choice of one plan per task could reach at most.
        solver: What found the parts.
    """

    energy_j: float
    quality_fraction: float
    points_per_j: float
    next: bool
    gap_fraction: float
    solver: str


@dataclass(frozen=True)
class PacingRecord:
    """How a long-run budget stands.

    Args:
        budget: In force.
        status: "waiting", "held", "slack", "infeasible", or "broken": an error switched pacing off for the task.
        price_per_j: Quality that a joule must buy now.
        burn_ratio: Spent over accrued; NaN before anything accrued.
        left_j: May be spent now, the burst allowance included.
        cheapest_j: Mean joules of the cheapest choices; NaN while unknown.
        requests: How many were charged.
        share: Where the budget is a part of one that several tasks share.
    """

    budget: LongRun
    status: str
    price_per_j: float
    burn_ratio: float
    left_j: float
    cheapest_j: float
    requests: int
    share: Share | None = None


@dataclass(frozen=True)
class GuardRecord:
    """How the guard of a task stands.

    Args:
        in_force: "gate" or "best_single".
        evidence_fraction: How far the evidence against the one in force has come: 1 sets it aside.
        mean_difference: Mean worth of the gate's answers minus the best single expert's, of this stay.
        observations: Feedback that counted.
        stays: How often either took over, the first time included.
    """

    in_force: str
    evidence_fraction: float
    mean_difference: float
    observations: int
    stays: int
