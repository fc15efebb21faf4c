"""Attributes joules of a source that is late or coarse: a gauge that is sampled, a counter that lags.

What a piece of work took cannot be known when it ends: the sensor shows it 50 to 300 ms later. So `end` gives a
preliminary reading from the watts learned so far, and `settle`, called every few seconds, attributes what the sensor
has shown since. Every cell of the sensor's values is shared out exactly once, so what was charged plus `idle_j` adds
up to `total_j`, the meter's total.

Gauges and late counters alike are sampled by a `Sampler`, at ticks of their own. A counter's total would need no more
than a reading now and then; but it steps every 20 to 100 ms, at moments that nobody is told, and a reading made when
work begins or ends is older than it seems by a different time each time. Read so, shares were off by 5 to 20 %
(simulated) where steady readings left 2 %.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nodes.energy.contract import Counter, EnergyReading, Gauge, Provenance, Settlement, ShareRule, Span
from nodes.energy.meters.history import History, Stretch
from nodes.energy.meters.settling import Batch, Charge, Learned, settle

BACK_S = 20.0
MOST_STRETCHES = 600
GUESS_DOUBT_FRACTION = 0.5


@dataclass
class _Work:
    """One piece of work until it is settled."""

    stretches: list[Stretch]
    effort_from_s: float
    charge: Charge = field(default_factory=Charge)
    ended: bool = False


class LateMeter:
    """See the module. `begin`, `enter` and `end` on one thread, `sample` and `settle` on any.

    Attributes:
        drain: Called before settling, for a sampler that gathers readings first; it hands them to `keep`.
        total_j: All joules of all cells that were shared out.
        idle_j: Those of idle power among them.

    Args:
        source: A counter or a gauge.
        idle_w: Watts at rest, measured at the start.
        clock: Monotonic seconds.
    """

    def __init__(self, source: Counter | Gauge, *, idle_w: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.provenance: Provenance = source.provenance
        self.method = source.method
        self._source = source
        self._clock = clock
        self._history = History()
        self._work: dict[Span, _Work] = {}
        self._running: set[Span] = set()
        self._settling = threading.Lock()
        self._learned = Learned(idle_w)
        self._effort_s, self._effort_at_s = 0.0, clock()
        self.drain: Callable[[], None] = _nothing
        self.idle_j = 0.0
        self.total_j = 0.0
        self.sample()

    @property
    def idle_w(self) -> float:
        """Watts at rest, as last seen."""
        return self._learned.idle_w

    @property
    def lag_s(self) -> float | None:
        """How late the source is; None until that was found."""
        return self._learned.lag_s

    def sample(self) -> None:
        """Read the source now. Cost: one read.

        Raises:
            EnergySourceMissing: it cannot be read any more.
        """
        source = self._source
        value = source.read_j() if _counts(source) else source.read_w()  # type: ignore[union-attr]
        self._history.sampled(self._clock(), value)

    def keep(self, read_s_k: Sequence[float], value_k: Sequence[float]) -> None:
        """Readings that somebody else has made, in the order of time."""
        self._history.gathered(read_s_k, value_k)

    # ---- work

    def begin(self, arm: str = "", stage: str = "") -> Span:
        """See `Meter`. Cost: none of the source's."""
        self._at_event()
        span = Span(arm, stage)
        self._work[span] = _Work([self._history.started(span, self._clock())], self._effort_s)
        self._running.add(span)
        return span

    def enter(self, span: Span, stage: str) -> None:
        """See `Meter`."""
        self._at_event()
        self._close_stretch(span)
        span.stage = stage
        work = self._work[span]
        work.stretches.append(self._history.started(span, self._clock()))

    def end(self, span: Span, *, compute_ms: float, macs: int) -> EnergyReading:  # noqa: ARG002
        """See `Meter`: a preliminary reading."""
        if span not in self._running:
            raise ValueError("the span is not open")
        self._at_event()
        self._close_stretch(span)
        self._running.discard(span)
        work = self._work[span]
        work.ended = True
        length_s = sum((one.end_s or one.start_s) - one.start_s for one in work.stretches)
        return EnergyReading(
            energy_j=span.energy_j,
            uncertainty_j=GUESS_DOUBT_FRACTION * span.energy_j,
            provenance=self.provenance,
            method=self.method,
            idle_j=self.idle_w * length_s / (len(self._running) + 1),
            share=ShareRule.PREDICTED,
            stages_j=tuple(item for item in span.stages_j.items() if item[0]),
            final=False,
        )

    def estimate(self, macs: int) -> EnergyReading | None:  # noqa: ARG002
        """See `Meter`: only running tells."""
        return None

    def settle(self) -> Sequence[Settlement]:
        """See `Meter`. Cost: 20 to 100 ms of CPU for 20 s of history; more where the lag is looked for again."""
        with self._settling:
            self.drain()
            snapshot = self._history.snapshot(back_s=BACK_S, most_stretches=MOST_STRETCHES)
            window_s = None if _counts(self._source) else self._source.window_s  # type: ignore[union-attr]
            batch = settle(snapshot, self._learned, window_s=window_s)
            if batch is None:
                return []
            self.total_j += batch.total_j
            self.idle_j += batch.idle_j
            for stretch, charge in zip(snapshot.stretches, batch.charges, strict=False):
                self._add(stretch, charge)
            self._history.settled(batch.to_s, back_s=BACK_S)
            return self._finished(batch)

    # ---- what was learned, ahead of the sensor

    def _at_event(self) -> None:
        """Let the effort of everything that runs go on."""
        now_s = self._clock()
        if self._running:
            rate = len(self._running) ** (self._learned.exponent - 1.0)
            self._effort_s += rate * (now_s - self._effort_at_s)
        self._effort_at_s = now_s

    def _close_stretch(self, span: Span) -> None:
        work = self._work[span]
        work.stretches[-1].end_s = self._clock()
        guess_j = self._watts(span.kind) * (self._effort_s - work.effort_from_s)
        work.effort_from_s = self._effort_s
        span.energy_j += guess_j
        span.stages_j[span.stage] = span.stages_j.get(span.stage, 0.0) + guess_j

    def _watts(self, kind: str) -> float:
        known = self._learned.watts
        if kind in known:
            return known[kind]
        if known:
            return sum(known.values()) / len(known)
        power_w = self._history.latest_w(is_counter=_counts(self._source))
        together = float(max(len(self._running), 1) ** self._learned.exponent)
        return max(power_w - self.idle_w, 0.0) / together

    # ---- what the sensor showed

    def _add(self, stretch: Stretch, new: Charge) -> None:
        work = self._work.get(stretch.span)
        if work is None:
            return
        charge = work.charge
        charge.energy_j += new.energy_j
        charge.idle_j += new.idle_j
        charge.variance_j2 += new.variance_j2
        charge.doubt_j += new.doubt_j
        for stage, energy_j in new.stages_j.items():
            charge.stages_j[stage] = charge.stages_j.get(stage, 0.0) + energy_j

    def _finished(self, batch: Batch) -> list[Settlement]:
        done = [
            span
            for span, work in list(self._work.items())
            if work.ended and (work.stretches[-1].end_s or 0.0) <= batch.happened_to_s
        ]
        return [Settlement(span, self._final(self._work.pop(span).charge)) for span in done]

    def _final(self, charge: Charge) -> EnergyReading:
        return EnergyReading(
            energy_j=charge.energy_j,
            uncertainty_j=charge.uncertainty_j,
            provenance=self.provenance,
            method=self.method,
            idle_j=charge.idle_j,
            share=ShareRule.WEIGHTS,
            stages_j=tuple(charge.stages_j.items()),
        )


def _nothing() -> None:
    return None


def _counts(source: Counter | Gauge) -> bool:
    return hasattr(source, "read_j")
