"""Stops a guest's process while the node serves: the lowest priority keeps its hands off the cores, but not off the
caches and the memory that the cores share.

A node that serves without a pause still lets a guest go on for a moment now and then: a hundredth of the time at most,
so that every training ends some day.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import time
from collections.abc import Callable
from typing import Protocol

LOOK_S = 0.1
# How long nothing must have come before a guest goes on.
QUIET_S = 0.5
SLICE_S, SLICE_EVERY_S = 0.2, 30.0


class Guest(Protocol):
    """A process, as asyncio has it."""

    @property
    def returncode(self) -> int | None:
        """None while it lives."""
        ...

    def send_signal(self, signal: int) -> None:
        """Send it a signal."""
        ...


class Pause:
    """When one guest may run. One event loop.

    Args:
        busy: Whether anything runs on the node.
        clock: Monotonic seconds.
    """

    def __init__(self, busy: Callable[[], bool], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._busy = busy
        self._clock = clock
        self._guest: Guest | None = None
        self._heard_s = -math.inf
        self._stopped_s: float | None = None
        self._slice_until_s = -math.inf

    def heard(self) -> None:
        """Work has come; a guest stops at once."""
        now_s = self._heard_s = self._clock()
        if self._guest is not None and self._stopped_s is None and now_s >= self._slice_until_s:
            self._stop(self._guest, now_s)

    async def accompany(self, guest: Guest) -> None:
        """Stop it and let it go on, until it has ended or this is cancelled."""
        self._guest, self._stopped_s, self._slice_until_s = guest, None, -math.inf
        try:
            while guest.returncode is None:
                self.look(guest)
                await asyncio.sleep(LOOK_S)
        finally:
            self._guest = None

    def look(self, guest: Guest) -> None:
        """What is due now."""
        now_s = self._clock()
        quiet = not self._busy() and now_s - self._heard_s >= QUIET_S
        if self._stopped_s is None:
            if not quiet and now_s >= self._slice_until_s:
                self._stop(guest, now_s)
        elif quiet:
            self._go_on(guest)
        elif now_s - self._stopped_s >= SLICE_EVERY_S:
            self._slice_until_s = now_s + SLICE_S
            self._go_on(guest)

    def _stop(self, guest: Guest, now_s: float) -> None:
        self._stopped_s = now_s
        _send(guest, "SIGSTOP")

    def _go_on(self, guest: Guest) -> None:
        self._stopped_s = None
        _send(guest, "SIGCONT")


def _send(guest: Guest, name: str) -> None:
    """Where the system has no such signals, the guest's priority must do."""
    number = getattr(signal, name, None)
    if number is not None:
        with contextlib.suppress(ProcessLookupError):
            guest.send_signal(number)
