"""What is said about users' own experts, to protobuf and back; what nodes say is bounded here."""

from __future__ import annotations

import math
from collections.abc import Mapping

from edgewise.v1 import common_pb2, fleet_pb2
from orchestrator.personal.types import Owner, PersonalNote, PersonalReport, PersonalStatus
from orchestrator.types import Array
from orchestrator.wire import encode_tensor

MAX_TEXT = 200
TIERS = ("none", "instant", "delta")


def decode_status(message: common_pb2.PersonalStatus) -> PersonalStatus:
    """How an expert stands; fractions are held within 0 and 1, an unknown tier is none."""
    return PersonalStatus(
        node=message.node[:MAX_TEXT],
        task=message.task[:MAX_TEXT],
        expert=message.expert[:MAX_TEXT],
        tier=message.tier if message.tier in TIERS else "none",
        version=message.version,
        corrections=message.corrections,
        judged=message.judged,
        global_fraction=_fraction(message.global_fraction),
        local_fraction=_fraction(message.local_fraction),
        generic_drop_fraction=message.generic_drop_fraction if math.isfinite(message.generic_drop_fraction) else 1.0,
        state=message.state[:MAX_TEXT],
        training_energy_j=max(0.0, message.training_energy_j) if math.isfinite(message.training_energy_j) else 0.0,
        file=message.file[:MAX_TEXT],
    )


def _fraction(value: float) -> float:
    return min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0


def encode_status(status: PersonalStatus) -> common_pb2.PersonalStatus:
    """The message for how an expert stands."""
    return common_pb2.PersonalStatus(
        node=status.node,
        task=status.task,
        expert=status.expert,
        tier=status.tier,
        version=status.version,
        corrections=status.corrections,
        judged=status.judged,
        global_fraction=status.global_fraction,
        local_fraction=status.local_fraction,
        generic_drop_fraction=status.generic_drop_fraction,
        state=status.state,
        training_energy_j=status.training_energy_j,
        file=status.file,
    )


def decode_note(message: fleet_pb2.PersonalNote) -> PersonalNote:
    """Who gave an answer."""
    return PersonalNote(message.by[:16], decode_status(message.status), message.needs_feedback)


def decode_report(message: fleet_pb2.PersonalReport) -> PersonalReport:
    """What came of an order."""
    return PersonalReport(
        message.order_id, message.reason[:64], message.message[:MAX_TEXT], decode_status(message.status)
    )


def encode_owner(owner: Owner) -> common_pb2.Owner:
    """The message for a user of a tenant."""
    return common_pb2.Owner(tenant=owner.tenant, user=owner.user)


def order_command(
    order_id: int, owner: Owner, *, task: str, verb: str, request_id: str = "", label: str = ""
) -> fleet_pb2.NodeCommand:
    """The command that passes an order on."""
    return fleet_pb2.NodeCommand(
        personal=fleet_pb2.PersonalOrder(
            order_id=order_id,
            owner=encode_owner(owner),
            task=task,
            verb=verb,
            request_id=request_id,
            label=label,
        )
    )


def keep_command(request_id: str, owner: Owner, *, expert: str, inputs: Mapping[str, Array]) -> fleet_pb2.NodeCommand:
    """The command that has an input kept for a correction."""
    tensors = [encode_tensor(name, array) for name, array in inputs.items()]
    return fleet_pb2.NodeCommand(
        keep=fleet_pb2.Keep(request_id=request_id, owner=encode_owner(owner), expert=expert, inputs=tensors)
    )
