"""Simulated nodes: slots, a bounded queue, first come first served, as `nodes.engines.slots` has it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from orchestrator.fleet.load import Ahead
from orchestrator.simulation.world import Device, Expert


@dataclass(slots=True, eq=False)
class Work:
    """One attempt on one arm.

    Args:
        request: Index of the request.
        attempt: Counted from 0.
        arm: Index on the board.
        sent_s: When the gateway sent it.
        ahead: What was ahead of it then.
        held_ms: What the board counts for it.
        open: Whether the gateway still waits for it.
    """

    request: int
    attempt: int
    arm: int
    expert: Expert
    machine: Machine
    sent_s: float
    ahead: Ahead
    held_ms: float
    open: bool = True
    queue_ms: float = 0.0
    started_s: float | None = None
    service_ms: float = 0.0
    energy_j: float = 0.0


@dataclass(slots=True, eq=False)
class Machine:
    """One node at work."""

    name: str
    device: Device
    alive: bool = True
    died_s: float | None = None
    running: dict[Work, None] = field(default_factory=dict)
    waiting: deque[Work] = field(default_factory=deque)
    on_the_way: dict[Work, None] = field(default_factory=dict)
    lost: list[Work] = field(default_factory=list)
    busy_s: float = 0.0
    active_j: float = 0.0
    unmeasured: int = 0
    answered: int = 0
    longest_queue: int = 0

    def offer(self, work: Work) -> bool | None:
        """Take work in: True where it may start now, False where it waits, None where the queue is full."""
        if len(self.running) < self.device.concurrency and not self.waiting:
            return True
        if len(self.waiting) >= self.device.queue_limit:
            return None
        self.waiting.append(work)
        self.longest_queue = max(self.longest_queue, len(self.waiting))
        return False

    def next(self) -> Work | None:
        """The next in line for a free slot; work that nobody waits for any more is dropped."""
        while self.waiting and len(self.running) < self.device.concurrency:
            work = self.waiting.popleft()
            if work.open:
                return work
        return None

    def slowdown(self) -> float:
        """Factor on a service time that begins beside what runs now."""
        factors = self.device.slowdown
        return factors[min(len(self.running), len(factors) - 1)]

    def occupied_s(self, until_s: float) -> float:
        """Seconds during which the machine was there."""
        return until_s if self.died_s is None else min(self.died_s, until_s)
