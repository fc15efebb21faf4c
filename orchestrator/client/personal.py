"""The client's calls about users' own experts."""

from __future__ import annotations

from edgewise.v1 import gateway_pb2
from orchestrator.client.wire import GATEWAY, Call
from orchestrator.personal.types import PersonalStatus
from orchestrator.personal.wire import decode_status


def correct(request_id: str, label: str) -> Call[PersonalStatus]:
    """The call that tells the right label of a request that carried a user."""
    request = gateway_pb2.FeedbackRequest(request_id=request_id, label=label)
    return Call(
        f"/{GATEWAY}/Feedback", request, gateway_pb2.FeedbackResponse, lambda reply: decode_status(reply.personal)
    )


def order(user: str, task: str, verb: str) -> Call[PersonalStatus]:
    """The call that has a user's home node do something."""
    request = gateway_pb2.PersonalRequest(user=user, task=task, verb=verb)
    return Call(
        f"/{GATEWAY}/Personal", request, gateway_pb2.PersonalResponse, lambda reply: decode_status(reply.status)
    )
