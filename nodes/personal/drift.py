"""When a user's hand has moved on: the node asks for labels, at a bounded rate. Pure: no clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace

# Both experts unsure: the better of their margins is below this.
UNSURE_MARGIN = 0.3
# Share of requests, smoothed, that the local expert takes; above it the user's inputs are no longer what it learned on
# or the gate has lost its edge.
USUAL_FRACTION = 0.98
SMOOTHING = 0.02
SETTLED_AFTER = 100
# Questions: at most one in so many requests, and so many a day.
ASK_EVERY = 8
ASK_PER_DAY = 24
DAY_S = 86_400.0


@dataclass(frozen=True)
class Watch:
    """What is remembered between requests.

    Attributes:
        local_fraction: Smoothed share that the local expert took.
        requests: Seen so far.
        asked_at: Number of the request that was last asked about.
        day: Number of the day that `asked_today` counts.
    """

    local_fraction: float = 0.5
    requests: int = 0
    asked_at: int = -ASK_EVERY
    asked_today: int = 0
    day: int = 0


def observe(watch: Watch, *, by_local: bool, margin: float, now_s: float) -> tuple[Watch, bool]:
    """The watch after one more answer, and whether to ask for its label.

    Args:
        by_local: Who answered.
        margin: Probability of the answer minus that of the next.
        now_s: Any clock that does not jump back by days.
    """
    requests = watch.requests + 1
    share = watch.local_fraction + SMOOTHING * (float(by_local) - watch.local_fraction)
    watch = replace(watch, local_fraction=share, requests=requests)
    day = int(now_s // DAY_S)
    if day != watch.day:
        watch = replace(watch, day=day, asked_today=0)
    drifted = requests > SETTLED_AFTER and share > USUAL_FRACTION
    due = requests - watch.asked_at >= ASK_EVERY and watch.asked_today < ASK_PER_DAY
    if not (due and (drifted or margin < UNSURE_MARGIN)):
        return watch, False
    return replace(watch, asked_at=requests, asked_today=watch.asked_today + 1), True
