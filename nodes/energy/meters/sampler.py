"""Reads a gauge ten times a second on a thread of its own, and knows what that costs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from nodes.errors import EnergySourceMissing

RATE_HZ = 10.0

log = structlog.get_logger("nodes.energy")


class Sampler:
    """Calls `sample` at a steady rate from `start` to `stop`. A source that fails is logged once and tried again.

    Args:
        sample: Reads and keeps one value.
        rate_hz: How often.
        clock: Monotonic seconds.
        wait: Waits for so many seconds or until `stop`; True when it is time to stop. None: it sleeps.
    """

    def __init__(
        self,
        sample: Callable[[], None],
        *,
        rate_hz: float = RATE_HZ,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self.rate_hz = rate_hz
        self._sample = sample
        self._clock = clock
        self._stopping = False
        self._wait = wait or self._sleep
        self._thread: threading.Thread | None = None
        self._started_s = clock()
        self._failing = False
        self._cpu_s = 0.0
        self.samples = 0

    @property
    def cpu_fraction(self) -> float:
        """Share of one core that sampling has taken so far."""
        return self._cpu_s / max(self._clock() - self._started_s, 1e-9)

    def start(self) -> None:
        """Start the thread; it does not keep the process alive."""
        self._thread = threading.Thread(target=self.run, name="energy-sampler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, within one sample."""
        self._stopping = True
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    def run(self) -> None:
        """Sample until stopped, at ticks that do not drift."""
        self._started_s = next_s = self._clock()
        before_s = time.thread_time()
        while not self._wait(max(0.0, next_s - self._clock())):
            self._once()
            self._cpu_s = time.thread_time() - before_s
            # After a pause of the whole machine the missed ticks are not made up for.
            next_s = max(next_s + 1.0 / self.rate_hz, self._clock())

    def _sleep(self, seconds: float) -> bool:
        # An event's wait would end at once, and costs several times as much ten times a second.
        time.sleep(seconds)
        return self._stopping

    def _once(self) -> None:
        try:
            self._sample()
            self.samples += 1
            self._failing = False
        except EnergySourceMissing as missing:
            if not self._failing:
                log.error("energy source lost", why=missing.message)
            self._failing = True
