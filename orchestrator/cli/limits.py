"""How limits over time are shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.cli.output import console, print_json, safe, table
from orchestrator.units import format_duration_ms, format_energy_j

if TYPE_CHECKING:
    from orchestrator.cli.context import Session
    from orchestrator.client.types import MeterStatus, QuotaStatus

UNITS = {"day_j": "per day", "mean_j": "per minute", "day_tokens": "tokens per day"}


def print_limits(quotas: Sequence[QuotaStatus], session: Session, output: str) -> None:
    """Every limit on a line of its own."""
    if output == "json":
        print_json([*quotas])
        return
    rows = table(None, ("scope", "limit", ">allowed", ">spent", ">held", ">left", ">burn", ">lasts", ">new in"))
    for entry in quotas:
        if entry.quota.request_j is not None:
            rows.add_row(safe(entry.scope), "per request", format_energy_j(entry.quota.request_j))
        for meter in entry.meters:
            rows.add_row(safe(entry.scope), UNITS.get(meter.unit, safe(meter.unit)), *_cells(meter))
    console(color=session.color).print(rows)
    if not quotas:
        session.note("no limits over time; `edgewise budget limit fleet --per-day 5kJ` sets one")


def _cells(meter: MeterStatus) -> list[str]:
    amounts = [_amount(meter, value) for value in (meter.limit, meter.spent, meter.held, meter.left)]
    burn = f"{_amount(meter, meter.burn_per_s)}/s"
    return [*amounts, burn, _lasts(meter), format_duration_ms(meter.resets_in_s * 1e3, 2)]


def _amount(meter: MeterStatus, value: float) -> str:
    return f"{value:.6g}" if meter.unit == "day_tokens" else format_energy_j(value)


def _lasts(meter: MeterStatus) -> str:
    """How long what is left lasts at the present rate; a dash where it lasts beyond the window."""
    lasts_s = max(0.0, meter.left) / meter.burn_per_s if meter.burn_per_s > 0.0 else math.inf
    return "–" if lasts_s > meter.resets_in_s else format_duration_ms(lasts_s * 1e3, 2)
