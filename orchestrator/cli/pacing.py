"""How what holds over many requests is told on a screen: by `budget show`, `status` and `why`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from orchestrator.units import format_energy_j, format_power_w

if TYPE_CHECKING:
    from orchestrator.client.types import GuardRecord, LongRun, PacingRecord, Share

STATUS = {
    "waiting": "too few requests yet",
    "held": "held",
    "slack": "joules are free: everything is affordable",
    "broken": "switched off by an error; set it again",
}


def budget_text(budget: LongRun) -> str:
    """The budget with its unit."""
    if budget.average_power_w:
        return format_power_w(budget.average_power_w)
    return f"{format_energy_j(budget.average_energy_j or 0.0)} per request"


def price_text(price_per_j: float) -> str:
    """What a hundredth of a right answer is worth."""
    return f"a point is worth {format_energy_j(0.01 / price_per_j)}" if price_per_j > 0.0 else "free"


def status_text(record: PacingRecord) -> str:
    """How the budget stands; an infeasible one says what would do."""
    if record.status != "infeasible":
        return STATUS.get(record.status, record.status)
    return f"infeasible: the cheapest answers take {format_energy_j(record.cheapest_j)} each"


def pacing_cells(record: PacingRecord | None) -> tuple[str, str, str, str]:
    """Price, burn ratio, what is left, status."""
    if record is None:
        return "-", "-", "-", "no request yet"
    burn = f"{record.burn_ratio:.3f}" if math.isfinite(record.burn_ratio) else "-"
    left = format_energy_j(max(0.0, record.left_j)) if math.isfinite(record.left_j) else "-"
    return price_text(record.price_per_j), burn, left, status_text(record)


def pacing_sentence(record: PacingRecord) -> str:
    """All of it in one line."""
    price, burn, left, status = pacing_cells(record)
    text = f"{budget_text(record.budget)} averaged: {price}, burn ratio {burn}, {left} left now; {status}"
    return text if record.share is None else f"{text}; {share_sentence(record.share)}"


def share_sentence(share: Share) -> str:
    """What a task would make of more of the budget that tasks share."""
    if share.points_per_j <= 0.0:
        more = "more joules buy it nothing"
    else:
        more = f"+1 J per request buys {share.points_per_j:+.3g} points"
        more += ", and the next joule comes here" if share.next else ""
    return f"its part of what tasks share: {more}"


def rounding_sentence(share: Share) -> str:
    """How good all the parts are together."""
    points = 100.0 * share.gap_fraction
    return f"Shared by the {share.solver}: no other plans, one per task, are better by more than {points:.2g} points."


def guard_sentence(record: GuardRecord) -> str:
    """Who decides, and on what evidence."""
    decides = "the gate decides" if record.in_force == "gate" else "the best single expert decides"
    seen = (
        f"gate minus best single {100.0 * record.mean_difference:+.2g} points" if record.observations else "no feedback"
    )
    return f"{decides}; {seen} over {record.observations} observations, evidence {record.evidence_fraction:.0%}"
