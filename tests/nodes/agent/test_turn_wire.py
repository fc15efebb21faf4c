"""What is written in turns, between bytes and the agent's own types, at both ends."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from edgewise.v1 import fleet_pb2 as fleet
from nodes.agent import messages as m
from nodes.agent.wire import decode, encode
from nodes.engines.contract import Turn
from orchestrator.errors import RequestError
from orchestrator.fleet.session import NodeSession
from orchestrator.fleet.wire import decode_written
from tests.orchestrator.builders import Clock, a_hello

# Bytes of an envelope with one token and its text, as many as a bar of 64 per token and two messages allows.
FEW_BYTES = 20


async def written_by(session: NodeSession, count: int) -> list[fleet.ToNode]:
    """So many messages of a session."""
    found: list[fleet.ToNode] = []

    async def write(message: fleet.ToNode) -> None:
        found.append(message)

    writing = asyncio.ensure_future(session.write(write))
    async with asyncio.timeout(5):
        while len(found) < count:  # noqa: ASYNC110
            await asyncio.sleep(0)
    writing.cancel()
    return found


def a_session() -> NodeSession:
    return NodeSession(a_hello("n1"), epoch=1 << 60, clock=Clock())


async def test_turns_go_alone_small_and_arrive_as_they_were() -> None:
    session = a_session()
    session.send(fleet.NodeCommand(turn=fleet.Turn(work_id=700, token_ids=[300, 5], count=3)))
    (message,) = await written_by(session, 1)
    assert (message.epoch, message.sequence, message.ByteSize() <= FEW_BYTES) == (0, 0, True)
    received = decode(fleet.ToNode.FromString(message.SerializeToString()))
    assert received.in_turns
    assert received.commands == (m.NextTurn(700, Turn((300, 5), 3)),)


async def test_among_other_commands_a_turn_keeps_its_place() -> None:
    session = a_session()
    session.send(fleet.NodeCommand(cancel=fleet.Cancel(work_id=1)))
    session.send(fleet.NodeCommand(turn=fleet.Turn(work_id=2, count=1)))
    (message,) = await written_by(session, 1)
    assert message.epoch == session.epoch
    assert decode(message).commands == (m.Cancel(1), m.NextTurn(2, Turn(count=1)))


def test_what_was_written_goes_alone_and_arrives_as_it_was() -> None:
    told = np.array([0.5, 0.25], np.float16)
    events = [m.Written(700, " weeks", (305,)), m.Written(9, "", top_ids=(4, 5), probabilities=told, ended=True)]
    message = encode(1 << 60, 12, events)
    assert (message.epoch, message.sequence, len(message.events)) == (0, 0, 0)
    assert message.written[0].ByteSize() + 2 <= FEW_BYTES
    first, second = map(decode_written, message.written)
    assert (first.work_id, first.text, first.token_ids, first.ended) == (700, " weeks", (305,), False)
    assert second.top_probabilities is not None
    assert (second.top_ids, second.top_probabilities.tolist(), second.ended) == ((4, 5), [0.5, 0.25], True)
    mixed = encode(7, 12, [*events, m.Draining("x")])
    assert (mixed.epoch, len(mixed.events), len(mixed.written)) == (7, 3, 0)


async def test_pieces_and_strings_arrive_as_they_were() -> None:
    session = a_session()
    asked = fleet.Turn(work_id=700, strings=32, pieces=["é".encode()[:1], b""], tell_text=True)
    session.send(fleet.NodeCommand(turn=asked))
    (message,) = await written_by(session, 1)
    received = decode(fleet.ToNode.FromString(message.SerializeToString()))
    turn = Turn(tell_text=True, strings=32, pieces=("é".encode()[:1], b""))
    assert received.commands == (m.NextTurn(700, turn),)
    probabilities, next_bytes = np.array([0.5, 0.25, 0.25], np.float16), np.zeros(257, np.float16)
    next_bytes[256] = 0.5
    event = m.Written(7, "", probabilities=probabilities, strings=(b"", b"\xff"), next_bytes=next_bytes, read_tokens=3)
    told = decode_written(encode(1 << 60, 12, [event]).written[0])
    assert told.top_probabilities is not None
    assert told.next_bytes is not None
    assert (told.strings, told.read_tokens) == ((b"", b"\xff"), 3)
    assert told.top_probabilities.tolist() == [0.5, 0.25, 0.25]
    assert told.next_bytes.tolist() == next_bytes.tolist()


HALF = np.array([0.5], "<f2").tobytes()


@pytest.mark.parametrize(
    "bad",
    [
        fleet.Written(strings=[b"a"], probabilities=HALF),
        fleet.Written(strings=[b"a"], probabilities=2 * HALF, next_bytes=256 * HALF),
        fleet.Written(strings=[b"a"], probabilities=2 * HALF, next_bytes=b"\0"),
        fleet.Written(strings=[b"a" * 257], probabilities=2 * HALF),
        fleet.Written(strings=[b"a"] * 257, probabilities=258 * b"\0\0"),
        fleet.Written(top_ids=[1] * 257, probabilities=257 * b"\0\0"),
        fleet.Written(top_ids=[1, 2, 3], probabilities=b"\0\0\0\0"),
        fleet.Written(probabilities=b"\0"),
        fleet.Written(probabilities=np.array([np.nan], "<f2").tobytes()),
        fleet.Written(probabilities=np.array([-0.5], "<f2").tobytes()),
        fleet.Written(probabilities=np.array([2.0], "<f2").tobytes()),
    ],
)
def test_probabilities_that_are_none_are_refused(bad: fleet.Written) -> None:
    with pytest.raises(RequestError) as refused:
        decode_written(bad)
    assert refused.value.reason == "FIELD_OUT_OF_RANGE"
