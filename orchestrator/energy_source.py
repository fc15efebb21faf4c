"""What a node says of where its joules come from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EnergySource:
    """Where a node's joules come from, and what keeps a better source from being used."""

    rate_hz: float = 0.0
    why: str = ""
    problem: str = ""
    cure: str = ""
    profile_digest: str = ""


UNTOLD_SOURCE = EnergySource()
