"""The agent's translation of what concerns texts that experts on several nodes write together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from edgewise.v1 import fleet_pb2 as fleet
from nodes.agent import messages as m
from nodes.engines.contract import Turn


def alone(events: Sequence[m.Event]) -> fleet.FromNode | None:
    """The message of events that are all of turns, which has neither epoch nor sequence; None for others."""
    found = [written(event) for event in events if isinstance(event, m.Written)]
    return fleet.FromNode(written=found) if found and len(found) == len(events) else None


def commands(message: fleet.ToNode) -> tuple[m.Command, ...]:
    """The turns of a message that holds nothing else."""
    return tuple(m.NextTurn(one.work_id, turn(one)) for one in message.turns)


def written(event: m.Written) -> fleet.Written:
    """What came of a turn."""
    return fleet.Written(
        work_id=event.work_id,
        text=event.text,
        token_ids=event.token_ids,
        logprobs_json=listed(event.logprobs),
        top_ids=event.top_ids,
        probabilities=_halves(event.probabilities),
        ended=event.ended,
        strings=event.strings,
        next_bytes=_halves(event.next_bytes),
        read_tokens=event.read_tokens,
    )


def _halves(told: NDArray[Any] | None) -> bytes:
    return b"" if told is None else told.astype("<f2").tobytes()


def listed(logprobs: Sequence[Mapping[str, Any]]) -> str:
    """Probabilities of tokens as JSON; "" for none."""
    return json.dumps(list(logprobs), separators=(",", ":")) if logprobs else ""


def shared(message: fleet.SharedText) -> m.SharedText:
    """What is special about a shared text."""
    return m.SharedText(turn(message.first), message.min_tokens)


def turn(message: fleet.Turn) -> Turn:
    """What to do next."""
    asked = message.count, message.tops, message.dense, message.tell_text, message.last
    return Turn(tuple(message.token_ids), *asked, message.strings, tuple(message.pieces))
