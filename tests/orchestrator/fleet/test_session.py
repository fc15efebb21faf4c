"""One node's session: what it accepts, how commands travel together, what happens when it ends."""

import asyncio
from typing import Any

import numpy as np
import pytest

from edgewise.v1 import fleet_pb2
from orchestrator.fleet import session as session_module
from orchestrator.fleet.session import (
    GATHER_FROM,
    MAX_BYTES_PER_MESSAGE,
    MAX_COMMANDS_PER_MESSAGE,
    MAX_OUTBOX,
    NodeSession,
    OutboxFull,
    SessionEnded,
)
from orchestrator.types import Delta, Done, Energy, Failed, Provenance
from orchestrator.wire import encode_tensor
from tests.orchestrator.builders import Clock, a_hello

EPOCH = 41
UNKNOWN = Energy(0.0, Provenance.UNMEASURED, "")


def a_session(clock: Clock | None = None) -> NodeSession:
    return NodeSession(a_hello("n1"), epoch=EPOCH, clock=clock or Clock())


def work(work_id: int, *, payload_bytes: int = 0) -> fleet_pb2.NodeCommand:
    tensors = fleet_pb2.TensorWork(inputs=[encode_tensor("image", np.zeros(payload_bytes, dtype=np.uint8))])
    return fleet_pb2.NodeCommand(work=fleet_pb2.Work(work_id=work_id, tensors=tensors))


def done(work_id: int) -> Done:
    return Done(work_id, {}, "", "", 0, 0, UNKNOWN, 0.0, 0.0)


class Stream:
    """The gateway's end of a stream: takes messages, holds the first back until told."""

    def __init__(self, session: NodeSession) -> None:
        self.messages: list[fleet_pb2.ToNode] = []
        self.open = asyncio.Event()
        self.took = asyncio.Event()
        self._task = asyncio.ensure_future(session.write(self._write))

    async def _write(self, message: fleet_pb2.ToNode) -> None:
        self.messages.append(message)
        self.took.set()
        await self.open.wait()

    async def commands(self, count: int) -> list[fleet_pb2.NodeCommand]:
        """All commands, as soon as there are so many."""
        async with asyncio.timeout(5):
            while len(found := [command for message in self.messages for command in message.commands]) < count:
                self.took.clear()
                await self.took.wait()
        return found

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
async def session() -> NodeSession:
    return a_session()


@pytest.fixture
async def stream(session: NodeSession) -> Any:
    stream = Stream(session)
    yield stream
    await stream.close()


# ---- in


def test_ten_thousand_replayed_or_foreign_messages_change_nothing() -> None:
    clock = Clock()
    session = a_session(clock)
    for sequence in range(2, 50):
        assert session.accepts(EPOCH, sequence)
    heard_s = session.seen_s
    clock.now_s += 100.0
    rng = np.random.default_rng(2)
    for _ in range(10_000):
        epoch = EPOCH if rng.random() < 0.5 else int(rng.integers(0, 2 * EPOCH))
        sequence = int(rng.integers(0, 50)) if epoch == EPOCH else int(rng.integers(0, 10_000))
        assert not session.accepts(epoch, sequence)
    assert session.seen_s == heard_s
    assert session.accepts(EPOCH, 50)
    assert session.seen_s == clock.now_s


def test_the_hello_was_number_one() -> None:
    session = a_session()
    assert not session.accepts(EPOCH, 1)
    assert session.accepts(EPOCH, 2)


async def test_results_go_to_who_waits_and_late_ones_nowhere(session: NodeSession) -> None:
    one, two = session.submit(work(1)), session.submit(work(2))
    failed = Failed(2, "ENGINE_ERROR", "", False, UNKNOWN)
    session.settle(done(1))
    session.settle(failed)
    session.settle(done(1))
    session.settle(done(99))
    assert (await one.result).work_id == 1
    assert await two.result is failed
    assert session.pending == {}


async def test_text_goes_to_the_stream_that_asked(session: NodeSession) -> None:
    streaming, other = session.submit(work(1), streaming=True), session.submit(work(2))
    for delta in (Delta(1, "a", ()), Delta(2, "b", ()), Delta(3, "c", ()), Delta(1, "d", ())):
        session.deliver(delta)
    assert streaming.deltas is not None
    assert [streaming.deltas.get_nowait().text for _ in range(streaming.deltas.qsize())] == ["a", "d"]
    assert other.deltas is None


# ---- out


async def test_commands_queued_during_a_write_travel_together(session: NodeSession, stream: Stream) -> None:
    session.submit(work(1))
    await stream.commands(1)
    for work_id in range(2, 12):
        session.submit(work(work_id))
    stream.open.set()
    commands = await stream.commands(11)
    assert [command.work.work_id for command in commands] == list(range(1, 12))
    assert len(stream.messages) == 2
    assert [(message.epoch, message.sequence) for message in stream.messages] == [(EPOCH, 1), (EPOCH, 2)]


async def test_a_message_holds_a_bounded_number_of_commands(session: NodeSession, stream: Stream) -> None:
    stream.open.set()
    total = 3 * MAX_COMMANDS_PER_MESSAGE + 5
    for work_id in range(total):
        session.submit(work(work_id))
    await stream.commands(total)
    assert max(len(message.commands) for message in stream.messages) == MAX_COMMANDS_PER_MESSAGE


async def test_a_message_holds_a_bounded_number_of_bytes(session: NodeSession, stream: Stream) -> None:
    stream.open.set()
    for work_id in range(5):
        session.submit(work(work_id, payload_bytes=MAX_BYTES_PER_MESSAGE // 2 - 1000))
    session.submit(work(5, payload_bytes=MAX_BYTES_PER_MESSAGE + 1000))
    await stream.commands(6)
    assert [len(message.commands) for message in stream.messages] == [2, 2, 1, 1]


async def test_a_lone_command_does_not_wait_for_company(
    session: NodeSession, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "GATHER_S", 60.0)
    stream.open.set()
    session.submit(work(1))
    async with asyncio.timeout(1):
        await stream.commands(1)


@pytest.mark.parametrize(("others", "gathers"), [(0, False), (GATHER_FROM, True)])
async def test_fast_commands_gather_only_where_several_works_run(
    session: NodeSession, stream: Stream, monkeypatch: pytest.MonkeyPatch, *, others: int, gathers: bool
) -> None:
    monkeypatch.setattr(session_module, "GATHER_S", 60.0)
    stream.open.set()
    # One caller, each work answered before the next; the clock stands still, so they follow each other at once.
    for work_id in range(100):
        session.settle(done(session.submit(work(work_id)).work_id))
    await stream.commands(100)
    for work_id in range(100, 100 + others):
        session.submit(work(work_id))
    await asyncio.sleep(0.01)
    session.submit(work(999))
    await asyncio.sleep(0.01)
    sent = [command.work.work_id for message in stream.messages for command in message.commands]
    assert (999 in sent) is not gathers


async def test_a_node_that_takes_nothing_is_refused_more(session: NodeSession) -> None:
    for work_id in range(MAX_OUTBOX):
        session.submit(work(work_id))
    with pytest.raises(OutboxFull):
        session.submit(work(MAX_OUTBOX))
    # What was refused is not owed, and giving up what is owed needs no room.
    assert len(session.pending) == MAX_OUTBOX
    session.abandon(session.pending[0])
    assert len(session.pending) == MAX_OUTBOX - 1


async def test_abandoned_work_is_cancelled_once_and_answered_work_never(session: NodeSession, stream: Stream) -> None:
    stream.open.set()
    wanted, unwanted = session.submit(work(1)), session.submit(work(2))
    session.settle(done(1))
    session.abandon(wanted)
    session.abandon(unwanted)
    session.abandon(unwanted)
    commands = await stream.commands(3)
    assert [command.WhichOneof("command") for command in commands] == ["work", "work", "cancel"]
    assert commands[-1].cancel.work_id == 2


def drafted(session: NodeSession, work_id: int) -> fleet_pb2.NodeCommand:
    command = session.draft()
    command.work.work_id = work_id
    return command


async def test_drafts_are_sent_as_they_were_written_and_those_given_up_are_not(
    session: NodeSession, stream: Stream
) -> None:
    session.submit(drafted(session, 1))
    await stream.commands(1)
    drafted(session, 2)
    session.submit(drafted(session, 3))
    session.submit(drafted(session, 4))
    drafted(session, 5)
    stream.open.set()
    await stream.commands(3)
    session.submit(drafted(session, 6))
    # In company with others, in the order in which they were submitted.
    session.submit(work(7))
    session.submit(drafted(session, 8))
    commands = await stream.commands(6)
    assert [command.work.work_id for command in commands] == [1, 3, 4, 6, 7, 8]
    assert [message.sequence for message in stream.messages] == [*range(1, len(stream.messages) + 1)]
    assert {message.epoch for message in stream.messages} == {EPOCH}


async def test_a_draft_that_was_begun_before_a_message_left_goes_with_a_later_one(
    session: NodeSession, stream: Stream
) -> None:
    stream.open.set()
    session.submit(work(1))
    early = drafted(session, 2)
    await stream.commands(1)
    drafted(session, 3)
    session.submit(early)
    commands = await stream.commands(2)
    assert [command.work.work_id for command in commands] == [1, 2]


async def test_drafts_too_keep_within_the_bounds_of_a_message(session: NodeSession, stream: Stream) -> None:
    stream.open.set()
    for work_id in range(MAX_COMMANDS_PER_MESSAGE + 5):
        session.submit(drafted(session, work_id))
    for work_id in range(100, 103):
        command = drafted(session, work_id)
        command.work.tensors.inputs.add(data=bytes(MAX_BYTES_PER_MESSAGE // 2))
        session.submit(command)
    commands = await stream.commands(MAX_COMMANDS_PER_MESSAGE + 8)
    assert [command.work.work_id for command in commands] == [*range(MAX_COMMANDS_PER_MESSAGE + 5), 100, 101, 102]
    assert max(len(message.commands) for message in stream.messages) == MAX_COMMANDS_PER_MESSAGE
    assert max(message.ByteSize() for message in stream.messages) < MAX_BYTES_PER_MESSAGE + 10_000


async def test_drafts_that_a_full_node_refuses_leave_nothing_behind(session: NodeSession) -> None:
    for work_id in range(MAX_OUTBOX):
        session.submit(work(work_id))
    for work_id in range(10):
        with pytest.raises(OutboxFull):
            session.submit(drafted(session, MAX_OUTBOX + work_id))
    assert len(session._message.commands) == 1


# ---- the end


async def test_the_end_fails_everything_that_is_owed_at_once(session: NodeSession) -> None:
    owed = [session.submit(work(work_id)) for work_id in range(3)]
    session.settle(done(1))
    session.end()
    session.end()
    results = await asyncio.gather(*(pending.result for pending in owed), return_exceptions=True)
    assert [isinstance(result, SessionEnded) for result in results] == [True, False, True]
    with pytest.raises(SessionEnded):
        session.submit(work(9))
    session.abandon(owed[0])
    assert session.pending == {}


async def test_the_writer_stops_at_the_end(session: NodeSession) -> None:
    messages: list[fleet_pb2.ToNode] = []

    async def write(message: fleet_pb2.ToNode) -> None:
        messages.append(message)

    writer = asyncio.ensure_future(session.write(write))
    await asyncio.sleep(0)
    session.end()
    async with asyncio.timeout(1):
        await writer
    assert messages == []
