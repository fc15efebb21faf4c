"""What keeping a node awake takes, what its sleeping and waking takes, and the steps from one to the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from optimizer.errors import ProblemError
from optimizer.selection.arms import sound


@dataclass(frozen=True, slots=True)
class Power:
    """What it takes to keep a node awake, and to have it sleep.

    Args:
        idle_w: Watts while it is awake and does nothing.
        sleep_w: Watts while it sleeps.
        wake_j: Joules of waking up.
        wake_s: Seconds until it can answer after being woken.
        awake: Whether it is awake now.
        may_sleep: False for a node that must stay awake.
        fall_j: Joules of falling asleep: finishing what runs, and suspending.
        fall_s: Seconds which that takes.
    """

    idle_w: float
    sleep_w: float = 0.0
    wake_j: float = 0.0
    wake_s: float = 0.0
    awake: bool = True
    may_sleep: bool = True
    fall_j: float = 0.0
    fall_s: float = 0.0

    @property
    def turn_j(self) -> float:
        """Joules of falling asleep and waking again, beyond what sleeping would have taken in these seconds."""
        return max(0.0, self.fall_j + self.wake_j - self.sleep_w * (self.fall_s + self.wake_s))

    @property
    def break_even_s(self) -> float:
        """A sleep shorter than this takes more than it saves; infinite where sleeping saves nothing."""
        saved_w = self.idle_w - self.sleep_w
        return self.turn_j / saved_w if saved_w > 0.0 else math.inf


@dataclass(frozen=True, slots=True)
class Terms:
    """What the joules of being awake are weighed against.

    Args:
        price_per_j: Quality that one joule must buy.
        horizon_s: How long the decision stands; what a change costs is spread over it.
        max_wake_s: Nodes that take longer to wake are not woken; None for no limit.
    """

    price_per_j: float
    horizon_s: float = 600.0
    max_wake_s: float | None = None


class Step(StrEnum):
    """What is to be done with a node, in this order."""

    WAKE = "wake"
    DRAIN = "drain"
    SUSPEND = "suspend"


@dataclass(frozen=True, slots=True)
class Action:
    """One step for one node.

    Args:
        node: Which.
        step: What.
        after_s: Seconds until its effect: waking and falling asleep take their time.
        energy_j: Joules that the step itself takes.
    """

    node: str
    step: Step
    after_s: float = 0.0
    energy_j: float = 0.0


def actions_to(nodes: Sequence[str], awake: frozenset[str], powers: Mapping[str, Power]) -> list[Action]:
    """From how things are to these nodes being awake: wake before anything is taken away."""
    known = [(node, powers[node]) for node in nodes if node in powers]
    wake = [
        Action(node, Step.WAKE, power.wake_s, power.wake_j)
        for node, power in known
        if node in awake and not power.awake
    ]
    ready_s = max((action.after_s for action in wake), default=0.0)
    leave = [(node, power) for node, power in known if node not in awake and power.awake]
    drain = [Action(node, Step.DRAIN, ready_s) for node, _ in leave]
    return wake + drain + [Action(node, Step.SUSPEND, ready_s + power.fall_s, power.fall_j) for node, power in leave]


def check_powers(powers: Mapping[str, Power]) -> None:
    """Refuse powers that cannot be meant.

    Raises:
        ProblemError: Naming the node.
    """
    for node, power in powers.items():
        figures = (power.idle_w, power.sleep_w, power.wake_j, power.wake_s, power.fall_j, power.fall_s)
        if not all(sound(value) for value in figures):
            raise ProblemError(f"Node {node!r}: watts, joules and seconds must be finite and at least 0.")
        if power.sleep_w > power.idle_w:
            raise ProblemError(f"Node {node!r}: sleeping cannot take more watts than idling.")
