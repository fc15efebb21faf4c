"""Turns of a text that experts on other nodes write too, between messages and the engine."""

from __future__ import annotations

from nodes.agent import messages as m
from nodes.agent.checks import Unfit
from nodes.arms import ArmSpec
from nodes.engines.contract import BYTES, TURNS, TextPiece, Turns


def turns_of(work: m.Work) -> Turns | None:
    """Where the turns of a shared text go; the first is there already."""
    if not isinstance(work.input, m.TextRequest) or work.input.shared is None:
        return None
    turns = Turns()
    turns.put(work.input.shared.first)
    return turns


def check_able(shared: m.SharedText, arm: ArmSpec) -> None:
    """Refuse a shared text that an arm cannot write.

    Raises:
        Unfit: It takes no turns, or hears no bytes.
    """
    capabilities = () if arm.text is None else arm.text.capabilities
    if shared.first.strings and BYTES not in capabilities:
        raise Unfit("This expert writes with none of another vocabulary")
    if not shared.first.strings and TURNS not in capabilities:
        raise Unfit("This expert takes no turns")


def written(work_id: int, piece: TextPiece) -> m.Written:
    """What the gateway is told of a turn that was written."""
    told = piece.top_ids, piece.probabilities, piece.ended, piece.strings, piece.next_bytes, piece.read_tokens
    return m.Written(work_id, piece.text, piece.token_ids, piece.logprobs, *told)
