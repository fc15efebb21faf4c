"""Frozen values about users' own experts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Owner:
    """A user of an authenticated tenant: the same name under another tenant is somebody else."""

    tenant: str
    user: str


@dataclass(frozen=True)
class PersonalStatus:
    """How a user's own expert stands on its home node.

    Args:
        tier: "none", "instant" or "delta".
        version: Of the expert that answers; 0 for none.
        judged: Corrections that it was judged on and had not learned from.
        global_fraction: Right answers of the global expert on them.
        local_fraction: Right answers of gate and local expert on them.
        generic_drop_fraction: What generic accuracy loses on stored samples.
        file: Where an export was written, on the home node.
    """

    node: str = ""
    task: str = ""
    expert: str = ""
    tier: str = "none"
    version: int = 0
    corrections: int = 0
    judged: int = 0
    global_fraction: float = 0.0
    local_fraction: float = 0.0
    generic_drop_fraction: float = 0.0
    state: str = ""
    training_energy_j: float = 0.0
    file: str = ""


@dataclass(frozen=True)
class PersonalNote:
    """Who gave an answer for an owner, as the home node says."""

    by: str
    status: PersonalStatus
    needs_feedback: bool = False


@dataclass(frozen=True)
class PersonalReport:
    """What came of an order; `reason` is "" where it was followed."""

    order_id: int
    reason: str
    message: str
    status: PersonalStatus
