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
        self._ended: list[Entry] = []
        self._answered: list[Entry] = []
        # Of these, work that was given up may add its record a moment later.
        self._unanswered: list[tuple[Entry, Progress]] = []

    def add(self, entry: Entry, progress: Progress | None) -> None:
        """A request has ended; `progress` is None where it never was on its way."""
        if not self._ended:
            asyncio.get_running_loop().call_later(PUBLISH_S, self._publish)
        self._ended.append(entry)
        if progress is None:
            self._metrics.refused(entry.outcome)
        elif entry.outcome == "answered":
            self._answered.append(entry)
        else:
            self._unanswered.append((entry, progress))

    def flush(self) -> None:
        """Count and log what has ended since the last time."""
        ended, self._ended = self._ended, []
        answered, self._answered = self._answered, []
        unanswered, self._unanswered = self._unanswered, []
        for entry in answered:
            self._metrics.settled(entry, entry.routing.attempts)
        for entry, progress in unanswered:
            self._metrics.settled(entry, progress.attempts)
        log.requests.write(LINE, [log_line(entry) for entry in ended])
