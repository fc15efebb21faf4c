"""Decides, from the crashes seen so far, how long to wait and which models to stop offering. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class CrashPolicy:
    """When a crashing engine is started again, and when a model is given up.

    Attributes:
        first_delay_s: Wait before the second of two crashes in a row; the first restart is at once.
        delay_cap_s: Longest wait.
        window_s: Crashes older than this are forgotten.
        quarantine_after: Crashes within the window, with the same model running, that take it off the offer.
    """

    first_delay_s: float = 0.2
    delay_cap_s: float = 5.0
    window_s: float = 300.0
    quarantine_after: int = 3


class CrashLog:
    """Crashes within the window and the models that were running at each."""

    def __init__(self, policy: CrashPolicy) -> None:
        self._policy = policy
        self._crashes: deque[tuple[float, frozenset[str]]] = deque()

    def record(self, now_s: float, running_arms: Collection[str]) -> frozenset[str]:
        """Note a crash; returns the arms that are to be quarantined because of it."""
        self._crashes.append((now_s, frozenset(running_arms)))
        self._forget(now_s)
        return frozenset(arm for arm in running_arms if self._count(arm) >= self._policy.quarantine_after)

    def delay_s(self, now_s: float) -> float:
        """How long to wait before starting again: nothing after one crash, then doubling."""
        self._forget(now_s)
        earlier = len(self._crashes) - 1
        if earlier < 1:
            return 0.0
        return min(self._policy.delay_cap_s, self._policy.first_delay_s * 2.0 ** (earlier - 1))

    def _count(self, arm: str) -> int:
        return sum(arm in arms for _, arms in self._crashes)

    def _forget(self, now_s: float) -> None:
        while self._crashes and self._crashes[0][0] < now_s - self._policy.window_s:
            self._crashes.popleft()
