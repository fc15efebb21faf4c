"""What a request may spend and ask of fusion: as it was asked for, and as it holds. Pure."""

from __future__ import annotations

from enum import Enum

from optimizer.frozen import frozen


class FusionChoice(Enum):
    """What a client may ask of fusion; AUTO leaves it to the gateway."""

    AUTO = "auto"
    NONE = "none"
    MIXTURE = "mixture"
    VOTE = "vote"
    JUDGE = "judge"
    TOKEN = "token"  # noqa: S105
    BYTES = "bytes"

    def __init__(self, word: str) -> None:
        # `value` without the two calls that reading that takes.
        self.word = word


class OnInfeasible(Enum):
    """What to do when no route fits the budget."""

    ERROR = "error"
    BEST_EFFORT = "best_effort"
    CHEAPEST = "cheapest"


@frozen
class BudgetRequest:
    """What a client or operator asked for; None means not said."""

    max_energy_j: float | None = None
    max_latency_ms: float | None = None
    on_infeasible: OnInfeasible | None = None
    profile: str | None = None


@frozen
class Limits:
    """The budget that holds for one request after defaults: joules may be infinite, milliseconds never are."""

    max_energy_j: float
    max_latency_ms: float
    on_infeasible: OnInfeasible
    profile: str
