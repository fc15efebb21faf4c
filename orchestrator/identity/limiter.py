"""Slows down whoever keeps failing."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.identity.errors import RETRY_S, too_many_attempts

FREE_FAILURES = 3
MAX_REMEMBERED = 4096


class Limiter:
    """After a few failures an address must wait. Guessing is hopeless anyway; this keeps logs and CPU quiet.

    Args:
        clock_s: Monotonic seconds.
    """

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._failures: dict[str, tuple[int, float]] = {}

    def check(self, address: str) -> None:
        """Let an address try.

        Raises:
            IdentityError: TOO_MANY_ATTEMPTS.
        """
        count, last_s = self._failures.get(address, (0, 0.0))
        if self._clock_s() - last_s >= RETRY_S:
            self._failures.pop(address, None)
        elif count >= FREE_FAILURES:
            raise too_many_attempts()

    def failed(self, address: str) -> None:
        """An address failed; the one whose failure is the oldest is forgotten where there are too many."""
        count, _ = self._failures.pop(address, (0, 0.0))
        self._failures[address] = (count + 1, self._clock_s())
        if len(self._failures) > MAX_REMEMBERED:
            del self._failures[next(iter(self._failures))]
