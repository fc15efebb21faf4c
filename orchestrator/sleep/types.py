"""What nodes say of sleeping."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SleepOffer:
    """What a node's sleeping and waking takes, as its operator says. Only nodes that may be put to sleep have one.

    Args:
        mac: Of the card that wakes it; "" where only a command of the gateway does.
        wake_address: HOST:PORT that a magic packet is sent to.
        idle_w: Watts while it is awake and does nothing.
        sleep_w: Watts while it sleeps.
        wake_j: Joules of waking up.
        wake_s: Seconds from the packet until the node has joined again.
        suspend_s: Seconds from the end of its stream until it sleeps.
        suspend_w: Watts in that time.
    """

    mac: str
    wake_address: str
    idle_w: float
    sleep_w: float
    wake_j: float
    wake_s: float
    suspend_s: float = 0.0
    suspend_w: float = 0.0

    def rest_j(self, seconds: float) -> float:
        """Joules from the end of the stream on, falling asleep first."""
        falling_s = min(seconds, self.suspend_s)
        return self.suspend_w * falling_s + self.sleep_w * (seconds - falling_s)
