"""What agent and gateway say about users' own experts, to protobuf and back: figures and names, never a payload."""

from __future__ import annotations

from dataclasses import asdict

from edgewise.v1 import common_pb2 as common
from edgewise.v1 import fleet_pb2 as fleet
from nodes.agent import messages as m


def note(told: m.PersonalNote) -> fleet.PersonalNote:
    """Who gave an answer."""
    return fleet.PersonalNote(by=told.by, status=status(told.status), needs_feedback=told.needs_feedback)


def report(told: m.PersonalReport) -> fleet.PersonalReport:
    """What came of an order."""
    return fleet.PersonalReport(
        order_id=told.order_id, reason=told.reason, message=told.message, status=status(told.status)
    )


def status(told: m.PersonalStatus) -> common.PersonalStatus:
    """How an expert stands."""
    return common.PersonalStatus(**asdict(told))


def owner(message: common.Owner) -> m.Owner:
    """A user of a tenant."""
    return m.Owner(message.tenant, message.user)


def keep(message: fleet.Keep, inputs: tuple[m.RawTensor, ...]) -> m.Keep:
    """An input to keep."""
    return m.Keep(message.request_id, owner(message.owner), message.expert, inputs)


def order(message: fleet.PersonalOrder) -> m.PersonalOrder:
    """Something to do with an owner's expert."""
    return m.PersonalOrder(
        order_id=message.order_id,
        owner=owner(message.owner),
        task=message.task,
        verb=message.verb,
        request_id=message.request_id,
        label=message.label,
    )
