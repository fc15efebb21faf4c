"""Counting and logging of requests that have ended: for several at once, when their replies are on their way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from orchestrator import log
from orchestrator.execution.run import Progress
from orchestrator.gateway.accounts import LINE, log_line
from orchestrator.journal import Entry
from orchestrator.metrics import Metrics

# Log lines and metrics of a request follow its reply within this time.
PUBLISH_S = 0.02


class Publishing:
    """What has ended and is not counted yet.

    Args:
        metrics: Counters.
        publish: What is done when it is time; calls `flush`.
    """

    def __init__(self, metrics: Metrics, publish: Callable[[], None]) -> None:
        self._metrics, self._publish = metrics, publish
        self._ended: list[tuple[Entry, Progress | None]] = []

    def add(self, entry: Entry, progress: Progress | None) -> None:
        """A request has ended; `progress` is None where it never was on its way."""
        if not self._ended:
            asyncio.get_running_loop().call_later(PUBLISH_S, self._publish)
        self._ended.append((entry, progress))

    def flush(self) -> None:
        """Count and log what has ended since the last time."""
        ended, self._ended = self._ended, []
        for entry, progress in ended:
            if progress is None:
                self._metrics.refused(entry.outcome)
            else:
                self._metrics.settled(progress, entry.energy, entry.outcome, entry.timings.total_ms / 1000.0)
                self._metrics.spoken(entry.timings)
        log.requests.write(LINE, [log_line(entry) for entry, _ in ended])
