"""When a user's own expert stands in for the plan's choice. Pure.

The plan certifies generic arms. A personal expert is no variable of the solver: the gate lays it over the plan's choice
where, at the plan's price of a joule and within the request's own limits, it is worth more to this user.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.fleet.arms import ArmBoard, ArmState
from orchestrator.personal.types import PersonalStatus
from orchestrator.routing.model import AnnouncedModel
from orchestrator.routing.plan import NO_CERTIFICATE, Plan
from orchestrator.routing.route import Decision, Wish, route
from orchestrator.types import Limits

OUTSIDE = "overlay, outside certificate"


@dataclass(frozen=True)
class Overlay:
    """A personal expert that stands in.

    Args:
        decision: Its route.
        text: What `why` tells.
    """

    decision: Decision
    text: str


def overlay(
    generic: Decision,
    status: PersonalStatus,
    state: ArmState,
    *,
    board: ArmBoard,
    limits: Limits,
    wish: Wish,
    features_f: NDArray[np.floating[Any]],
) -> Overlay | None:
    """The user's expert in place of the plan's choice; None where it is not worth it or does not fit.

    Args:
        generic: The plan's choice.
        status: How the user's expert stands.
        state: The global expert's arm on the user's home node; the local one costs the same.
    """
    if status.tier == "none" or status.judged == 0:
        return None
    expert, energy_j = state.arm.expert, float(board.energy_j_n[state.index])
    quality = cautious(status.local_fraction, status.judged)
    plan = Plan("overlay", AnnouncedModel({expert: quality}, {expert: energy_j}), None, NO_CERTIFICATE)
    mine = route(features_f, plan=plan, table=plan.table([state], board), limits=limits, wish=wish, pace=generic.pace)
    if mine.route is None or mine.index is None or not mine.within:
        return None
    per_j = generic.price.per_j
    worth = quality - per_j * float(mine.offer.energy_r[mine.index])
    # What is known of everybody is lowered by how much worse the global expert is for this user, never raised.
    penalty = max(0.0, state.arm.quality_fraction - status.global_fraction)
    other = -np.inf
    if generic.index is not None:
        offer = generic.offer
        other = float(offer.quality_r[generic.index] - per_j * offer.energy_r[generic.index]) - penalty
    if not worth > other:
        return None
    text = (
        f"{OUTSIDE}: own expert, version {status.version} ({status.tier}), right on {status.local_fraction:.1%} of"
        f" {status.judged} judged corrections, global expert on {status.global_fraction:.1%}"
    )
    return Overlay(replace(mine, price=generic.price, floor_per_j=generic.floor_per_j), text)


def cautious(fraction: float, samples: int) -> float:
    """A share of few samples, drawn a little towards one half (Laplace)."""
    return (fraction * samples + 1.0) / (samples + 2.0)
