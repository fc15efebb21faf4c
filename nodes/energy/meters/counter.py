"""Shares the joules of a prompt counter out among concurrent work, at once.

On every begin and end the counter's step since the last event, less idle power times the time, is split among the work
that ran in between: by the watts of its kind once they are learned, equally before. So readings plus `idle_j` add up to
what the counter counted while work ran. For counters that lag by more than a step see `late.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from nodes.energy.contract import Counter, EnergyReading, Provenance, Settlement, ShareRule, Span
from nodes.energy.meters.learner import WattLearner

# Idle power is followed while nothing runs: each quiet stretch counts by its length against this one.
IDLE_MEMORY_S = 30.0


def measure_idle_w(
    counter: Counter,
    *,
    window_s: float = 1.0,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> float:
    """Mean watts of the device while the node does nothing. Blocks for the window."""
    start_s, start_j = clock(), counter.read_j()
    wait(window_s)
    return (counter.read_j() - start_j) / max(clock() - start_s, 1e-9)


class CounterMeter:
    """See the module.

    Attributes:
        idle_j: Joules that were idle power's while work ran.
        idle_w: Watts that flow without any work; follows the drift.

    Args:
        counter: The device.
        idle_w: Watts at rest, measured at the start.
        step_s: How coarse the counter is.
        clock: Monotonic seconds.
    """

    def __init__(
        self, counter: Counter, *, idle_w: float, step_s: float = 1e-3, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.provenance: Provenance = counter.provenance
        self.method = counter.method
        self._counter = counter
        self._step_s = step_s
        self._clock = clock
        self._open: dict[Span, None] = {}
        self._learner = WattLearner()
        self._shared = False
        self._last_j = counter.read_j()
        self._last_s = clock()
        self.idle_w = idle_w
        self.idle_j = 0.0

    def begin(self, arm: str = "", stage: str = "") -> Span:
        """See `Meter`. Cost: one read of the counter."""
        self._share_out()
        span = Span(arm, stage)
        self._open[span] = None
        return span

    def enter(self, span: Span, stage: str) -> None:
        """See `Meter`. Cost: one read of the counter."""
        self._share_out()
        span.stage = stage

    def end(self, span: Span, *, compute_ms: float, macs: int) -> EnergyReading:  # noqa: ARG002
        """See `Meter`. Cost: one read of the counter."""
        if span not in self._open:
            raise ValueError("the span is not open")
        self._share_out()
        del self._open[span]
        return EnergyReading(
            energy_j=span.energy_j,
            uncertainty_j=math.hypot(math.sqrt(span.variance_j2), span.doubt_j),
            provenance=self.provenance,
            method=self.method,
            idle_j=span.idle_j,
            share=self._rule(span),
            stages_j=tuple((stage, energy_j) for stage, energy_j in span.stages_j.items() if stage),
        )

    def settle(self) -> Sequence[Settlement]:
        """See `Meter`: every reading is final."""
        return ()

    def estimate(self, macs: int) -> EnergyReading | None:  # noqa: ARG002
        """See `Meter`: only running tells."""
        return None

    def _rule(self, span: Span) -> ShareRule:
        if span.doubt_j == 0.0:
            return ShareRule.WHOLE
        return ShareRule.WEIGHTS if self._learner.watts else ShareRule.OCCUPANCY

    def _share_out(self) -> None:
        now_j, now_s = self._counter.read_j(), self._clock()
        step_j, step_s = now_j - self._last_j, now_s - self._last_s
        self._last_j, self._last_s = now_j, now_s
        if not self._open:
            self._follow_idle(step_j, step_s)
            return
        idle_j = min(step_j, self.idle_w * step_s)
        self.idle_j += idle_j
        active_j = step_j - idle_j
        self._learner.saw([span.kind for span in self._open], step_s, active_j)
        # Either end of the interval may miss one step of the counter.
        miss_j = self._step_s * step_j / max(step_s, self._step_s)
        self._charge(active_j, idle_j, miss_j)

    def _charge(self, active_j: float, idle_j: float, miss_j: float) -> None:
        weights = [self._learner.weight(span.kind) for span in self._open]
        whole, count = sum(weights), len(weights)
        for span, weight in zip(self._open, weights, strict=True):
            part = weight / whole
            share_j = active_j * part
            span.energy_j += share_j
            span.idle_j += idle_j / count
            span.stages_j[span.stage] = span.stages_j.get(span.stage, 0.0) + share_j
            span.variance_j2 += (miss_j * part) ** 2
            span.doubt_j += self._learner.doubt_fraction * share_j * (1.0 - part)

    def _follow_idle(self, step_j: float, step_s: float) -> None:
        """Idle power drifts with temperature and what else runs; only long quiet stretches tell."""
        if step_s < 10 * self._step_s or self.idle_w <= 0.0:
            return
        part = 1.0 - math.exp(-step_s / IDLE_MEMORY_S)
        self.idle_w += part * (step_j / step_s - self.idle_w)
