"""The meter of a node that has neither a sensor nor a profile: it says that nobody knows."""

from __future__ import annotations

from collections.abc import Sequence

from nodes.energy.contract import EnergyReading, Provenance, Settlement, Span


class UnmeasuredMeter:
    """Reads nothing and pretends nothing."""

    provenance = Provenance.UNMEASURED
    method = "none"

    def __init__(self) -> None:
        self._open: set[Span] = set()

    def begin(self, arm: str = "", stage: str = "") -> Span:
        """See `Meter`."""
        span = Span(arm, stage)
        self._open.add(span)
        return span

    def enter(self, span: Span, stage: str) -> None:
        """See `Meter`."""
        span.stage = stage

    def end(self, span: Span, *, compute_ms: float, macs: int) -> EnergyReading:  # noqa: ARG002
        """See `Meter`."""
        if span not in self._open:
            raise ValueError("the span is not open")
        self._open.remove(span)
        return self._nothing()

    def settle(self) -> Sequence[Settlement]:
        """See `Meter`: the unknown stays so."""
        return ()

    def estimate(self, macs: int) -> EnergyReading:  # noqa: ARG002
        """See `Meter`: there is nothing to measure either, so the unknown is the estimate."""
        return self._nothing()

    def _nothing(self) -> EnergyReading:
        return EnergyReading(None, 0.0, self.provenance, self.method)
