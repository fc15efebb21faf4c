"""What a late meter remembers: which work was busy when, and what its source said.

One thread writes, another may take a snapshot; both hold the lock for microseconds.

Shape letter: k samples.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from nodes.energy.contract import Span

# At 10 Hz about seven minutes; whoever settles less often than that loses the oldest samples.
MOST_SAMPLES = 4096


@dataclass(eq=False)
class Stretch:
    """One stage of one piece of work; `end_s` is None while it runs."""

    span: Span
    kind: str
    stage: str
    start_s: float
    end_s: float | None = None


@dataclass(frozen=True)
class Snapshot:
    """Stretches and samples of the recent past, and which samples are new."""

    stretches: list[Stretch]
    ends_s: list[float]
    read_s_k: list[float]
    value_k: list[float]
    first_new: int


class History:
    """Grows at its end, and forgets what was settled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stretches: list[Stretch] = []
        self._samples: deque[tuple[float, float]] = deque(maxlen=MOST_SAMPLES)
        self._settled_to_s = -float("inf")

    def started(self, span: Span, now_s: float) -> Stretch:
        """A stage starts."""
        stretch = Stretch(span, span.kind, span.stage, now_s)
        with self._lock:
            self._stretches.append(stretch)
        return stretch

    def sampled(self, now_s: float, value: float) -> None:
        """The source said something; readings that do not come later than the last one are dropped."""
        with self._lock:
            if not self._samples or now_s > self._samples[-1][0]:
                self._samples.append((now_s, value))

    def gathered(self, read_s_k: Sequence[float], value_k: Sequence[float]) -> None:
        """The source said all this since it was last asked; times rising."""
        with self._lock:
            self._samples.extend(zip(read_s_k, value_k, strict=True))

    def latest_w(self, *, is_counter: bool) -> float:
        """Watts as last seen; 0 where nothing was seen yet."""
        with self._lock:
            last = list(self._samples)[-2:]
        if not is_counter:
            return last[-1][1] if last else 0.0
        if len(last) < 2:
            return 0.0
        (before_s, before_j), (now_s, now_j) = last
        return (now_j - before_j) / (now_s - before_s)

    def snapshot(self, *, back_s: float, most_stretches: int) -> Snapshot:
        """Everything that is not settled, and what was before for up to `back_s`.

        Less of the past where there are too many stretches, and then less of what is new: the rest comes next time.
        """
        with self._lock:
            samples, stretches = list(self._samples), list(self._stretches)
        new = [at_s for at_s, _ in samples if at_s > self._settled_to_s]
        if not new:
            return Snapshot([], [], [], [], 0)
        low_s, high_s = new[0] - back_s, samples[-1][0]
        chosen = _within(stretches, low_s, high_s)
        while len(chosen) > most_stretches and len(new) > 4:
            low_s, new = new[0], new[: max(4, len(new) // 2)]
            high_s = new[-1]
            chosen = _within(stretches, low_s, high_s)
        kept = [(at_s, value) for at_s, value in samples if low_s <= at_s <= high_s]
        first_new = sum(at_s <= self._settled_to_s for at_s, _ in kept)
        ends_s = [high_s if one.end_s is None else min(one.end_s, max(high_s, one.start_s)) for one in chosen]
        return Snapshot(chosen, ends_s, [at for at, _ in kept], [value for _, value in kept], first_new)

    def settled(self, to_s: float, *, back_s: float) -> None:
        """Samples up to here have been shared out; what ended long before is forgotten."""
        with self._lock:
            self._settled_to_s = to_s
            oldest_s = to_s - 2 * back_s
            self._stretches = [one for one in self._stretches if one.end_s is None or one.end_s > oldest_s]
            while self._samples and self._samples[0][0] < oldest_s:
                self._samples.popleft()


def _within(stretches: list[Stretch], low_s: float, high_s: float) -> list[Stretch]:
    return [one for one in stretches if one.start_s < high_s and (one.end_s is None or one.end_s > low_s)]
