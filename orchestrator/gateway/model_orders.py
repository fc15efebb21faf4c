"""Has nodes load, unload or pin experts; what comes of it, their arms tell."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace

from edgewise.v1 import fleet_pb2
from orchestrator.errors import RequestError
from orchestrator.fleet.fleet import Fleet
from orchestrator.fleet.session import OutboxFull, SessionEnded
from orchestrator.types import Arm

VERBS = ("load", "unload", "pin", "unpin")
MAX_TTL_S = 31 * 86_400.0


def order_models(fleet: Fleet, expert: str, verb: str, *, node: str | None, ttl_s: float) -> list[str]:
    """Send the order to every node that has the expert, or to one; the names of the arms that were told.

    Raises:
        RequestError: FIELD_OUT_OF_RANGE, NODE_NOT_FOUND, EXPERT_NOT_FOUND, MODEL_FIXED.
    """
    if verb not in VERBS:
        raise RequestError("FIELD_OUT_OF_RANGE", f"verb must be one of {', '.join(VERBS)}.", field="verb")
    if not (math.isfinite(ttl_s) and 0.0 <= ttl_s <= MAX_TTL_S):
        raise RequestError("FIELD_OUT_OF_RANGE", "ttl_s must be between 0 and 31 days.", field="ttl_s")
    if node is not None:
        fleet.session_of(node)
    arms = [
        arm
        for name, session in sorted(fleet.sessions.items())
        for arm in _current(fleet, session.hello.arms)
        if arm.expert == expert and node in (None, name)
    ]
    if not arms:
        raise RequestError("EXPERT_NOT_FOUND", "No connected node has a model of this name.", field="expert")
    movable = [arm for arm in arms if arm.residency is not None]
    if not movable:
        text = "The node keeps its experts loaded; start it with --memory-budget to have them loaded and unloaded."
        raise RequestError("MODEL_FIXED", text, field="expert")
    return [arm.name for arm in movable if _told(fleet, arm, verb, ttl_s)]


def _current(fleet: Fleet, arms: tuple[Arm, ...]) -> list[Arm]:
    """As the board has them: what a node says of memory after its hello is there."""
    indices = [fleet.board.index_of(arm.name) for arm in arms]
    return [fleet.board.states[index].arm for index in indices if index is not None]


def _told(fleet: Fleet, arm: Arm, verb: str, ttl_s: float) -> bool:
    order = fleet_pb2.ModelOrder(expert=arm.expert, variant=arm.variant, verb=verb, ttl_s=ttl_s)
    index = fleet.board.index_of(arm.name)
    with contextlib.suppress(OutboxFull, SessionEnded):
        fleet.sessions[arm.node].send(fleet_pb2.NodeCommand(model=order))
        if index is not None and arm.residency is not None:
            # A problem that is told from now on is of this order.
            fleet.board.set_residency(index, replace(arm.residency, problem=""))
        return True
    return False
