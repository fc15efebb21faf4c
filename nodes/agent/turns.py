"""Turns of a text that experts on other nodes write too, between messages and the engine."""

from __future__ import annotations

from nodes.agent import messages as m
from nodes.engines.contract import TextPiece, Turns


def turns_of(work: m.Work) -> Turns | None:
    """Where the turns of a shared text go; the first is there already."""
    if not isinstance(work.input, m.TextRequest) or work.input.shared is None:
        return None
    turns = Turns()
    turns.put(work.input.shared.first)
    return turns


def written(work_id: int, piece: TextPiece) -> m.Written:
    """What the gateway is told of a turn that was written."""
    told = piece.top_ids, piece.probabilities, piece.ended
    return m.Written(work_id, piece.text, piece.token_ids, piece.logprobs, *told)
