"""Which nodes sleep, since when, and what waking them has taken: a node that sleeps is not lost.

Pure bookkeeping; the fleet tells who came and went, `orchestrator.sleep.keeper` acts on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.sleep.types import SleepOffer
from orchestrator.types import NodeHello

# Wakes of a node that are remembered; one that took longer than announced counts from then on.
_REMEMBERED = 8
# A node that has not joined after so many times what it should take has not woken.
LATE_FACTOR, LATE_S = 2.0, 10.0


@dataclass
class Sleeper:
    """A node that sleeps.

    Args:
        hello: What it said of itself before.
        offer: What its sleeping and waking takes.
        asleep_s: Since when, monotonic.
        waking_s: Since when it is being woken; None where it is not.
        overdue: It was woken and did not come.
    """

    hello: NodeHello
    offer: SleepOffer
    asleep_s: float
    waking_s: float | None = None
    overdue: bool = False


@dataclass(frozen=True)
class Rest:
    """A sleep that has ended.

    Args:
        node: Whose.
        slept_s: Until it was woken, or came by itself.
        took_s: Seconds from the wake until it had joined; None where it came by itself.
        energy_j: What falling asleep, sleeping and waking took, by what its operator says.
    """

    node: str
    slept_s: float
    took_s: float | None
    energy_j: float


@dataclass
class Dormitory:
    """All sleepers.

    Args:
        clock: Monotonic seconds.
    """

    clock: Callable[[], float]
    sleepers: dict[str, Sleeper] = field(default_factory=dict)
    rested: list[Rest] = field(default_factory=list)
    _joined_s: dict[str, float] = field(default_factory=dict)
    _took_s: dict[str, deque[float]] = field(default_factory=dict)
    _drained_s: dict[str, deque[float]] = field(default_factory=dict)

    def fell_asleep(self, hello: NodeHello, *, ago_s: float = 0.0, drained_s: float | None = None) -> None:
        """A node has said that it goes to sleep, and its stream is gone.

        Args:
            hello: What it said of itself.
            ago_s: How long that is past.
            drained_s: Seconds that it took from the order to finish what ran; None where nobody saw it.
        """
        if hello.sleep is not None:
            self.sleepers[hello.node] = Sleeper(hello, hello.sleep, self.clock() - ago_s)
            if drained_s is not None:
                self._drained_s.setdefault(hello.node, deque(maxlen=_REMEMBERED)).append(drained_s)

    def joined(self, node: str) -> None:
        """A node is there, from sleep or from elsewhere."""
        now_s = self.clock()
        self._joined_s[node] = now_s
        sleeper = self.sleepers.pop(node, None)
        if sleeper is None:
            return
        woken = sleeper.waking_s is not None
        slept_s = (now_s if sleeper.waking_s is None else sleeper.waking_s) - sleeper.asleep_s
        took_s = None if sleeper.waking_s is None else now_s - sleeper.waking_s
        if took_s is not None:
            self._took_s.setdefault(node, deque(maxlen=_REMEMBERED)).append(took_s)
        energy_j = sleeper.offer.rest_j(slept_s) + (sleeper.offer.wake_j if woken else 0.0)
        self.rested.append(Rest(node, slept_s, took_s, energy_j))

    def woken(self, node: str) -> None:
        """A node is being woken from now on."""
        sleeper = self.sleepers[node]
        if sleeper.waking_s is None or sleeper.overdue:
            sleeper.waking_s, sleeper.overdue = self.clock(), False

    def late(self) -> list[str]:
        """Nodes that were woken and should have come long ago, each told once; until woken again they count as gone."""
        now_s, found = self.clock(), []
        for node, sleeper in self.sleepers.items():
            most_s = LATE_FACTOR * self.wake_s(node) + LATE_S
            if sleeper.waking_s is not None and not sleeper.overdue and now_s - sleeper.waking_s > most_s:
                sleeper.overdue = True
                found.append(node)
        return found

    def wake_s(self, node: str) -> float:
        """Seconds that waking a sleeper takes: as announced, or as it took lately where that was longer."""
        return max(self.sleepers[node].offer.wake_s, self.took_s(node))

    def took_s(self, node: str) -> float:
        """The longest of a node's last wakes; 0 where it was never woken."""
        return max(self._took_s.get(node, ()), default=0.0)

    def drain_s(self, node: str) -> float:
        """Seconds that a node takes to finish what runs before it sleeps, on the mean of the last times; 0 at first."""
        seen_s = self._drained_s.get(node)
        return sum(seen_s) / len(seen_s) if seen_s else 0.0

    def left_s(self, node: str) -> float:
        """Seconds until a sleeper can answer, if it is woken now or is being woken."""
        begun_s = self.sleepers[node].waking_s
        whole_s = self.wake_s(node)
        return whole_s if begun_s is None else max(0.0, whole_s - (self.clock() - begun_s))

    def awake_for_s(self, node: str) -> float:
        """Seconds since a node joined."""
        return self.clock() - self._joined_s.get(node, self.clock())

    def state(self, node: str) -> str | None:
        """``asleep`` or ``waking``; None where the node does not sleep, or did not wake."""
        sleeper = self.sleepers.get(node)
        if sleeper is None or sleeper.overdue:
            return None
        return "asleep" if sleeper.waking_s is None else "waking"
