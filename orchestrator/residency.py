"""Whether an expert is in its node's memory, and what it takes to get it there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Residency:
    """Whether an expert is in its node's memory; fields as in the message."""

    state: str
    pinned: bool = False
    load_ms: float = 0.0
    load_j: float | None = None
    progress_fraction: float | None = None
    problem: str = ""

    @property
    def away(self) -> bool:
        """Whether it must be loaded before it can run."""
        return self.state != "loaded"


def missing_ms(residency: Residency | None) -> float:
    """Milliseconds until an expert can run at all: 0 where it is in memory."""
    return residency.load_ms if residency is not None and residency.away else 0.0


def left_ms(residency: Residency | None) -> float:
    """The same where it is being loaded, less the part that is done."""
    done_fraction = 0.0 if residency is None else residency.progress_fraction or 0.0
    return missing_ms(residency) * max(0.0, 1.0 - done_fraction)


def missing_j(residency: Residency | None) -> float:
    """Joules of the same, as far as they are known."""
    return (residency.load_j or 0.0) if residency is not None and residency.away else 0.0
