"""What was spent, summed by whom or by what, and written out. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.store.records import NO_REQUEST, Settlement

BY: Mapping[str, str] = {
    "tenant": "tenant",
    "key": "key_id",
    "task": "task",
    "arms": "arms",
    "outcome": "outcome",
}
COLUMNS = Settlement._fields
UNMEASURED = "unmeasured"


@dataclass
class Share:
    """What one name has cost.

    Args:
        name: Tenant, key, task, arms or outcome.
        requests: Settled.
        energy_j: Known joules.
        reserved_j: What was reserved for those that were limited.
        overshoot_j: Beyond their reservations.
        tokens: Prompt and completion.
        unmeasured: Requests whose joules nobody knows.
    """

    name: str
    requests: int = 0
    energy_j: float = 0.0
    reserved_j: float = 0.0
    overshoot_j: float = 0.0
    tokens: int = 0
    unmeasured: int = 0

    def add(self, row: Settlement) -> None:
        """Count one settlement; corrections and idle power belong to no request of their own."""
        self.energy_j += row.energy_j
        if row.outcome in NO_REQUEST:
            return
        self.requests += 1
        self.reserved_j += row.reserved_j if math.isfinite(row.reserved_j) else 0.0
        self.overshoot_j += row.overshoot_j
        self.tokens += row.tokens
        self.unmeasured += row.provenance == UNMEASURED


def add_up(shares: dict[str, Share], rows: Iterable[Settlement], by: str) -> None:
    """Count rows into their shares.

    Args:
        shares: By name; filled.
        rows: What was settled.
        by: A key of `BY`.
    """
    attribute = BY[by]
    for row in rows:
        name = getattr(row, attribute)
        shares.setdefault(name, Share(name)).add(row)


def ranked(shares: Mapping[str, Share]) -> list[Share]:
    """The dearest first."""
    return sorted(shares.values(), key=lambda share: (-share.energy_j, share.name))
