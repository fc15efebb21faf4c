"""One connected node: what is sent to it and what it still owes.

The session knows protobuf messages only as what it queues and what the servicer feeds it. Everything runs on one event
loop. Commands that are queued while a message is being written travel together in the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from edgewise.v1 import fleet_pb2
from orchestrator.types import Delta, Done, Failed, NodeHello

MAX_OUTBOX = 4096
# Commands of one message; a message of this many small tensors stays far below the message limit.
MAX_COMMANDS_PER_MESSAGE = 64
# A message costs both ends more than a small tensor does. So where commands follow each other faster than this, and not
# one caller alone is served fast, they travel in company: a message waits so long, or until it holds so many (what
# network cards call moderation).
GATHER_FROM = 4
BUSY_INTERVAL_S = 0.0016
GATHER_S = 0.004
GATHER_MOST = 16
SMOOTHING = 0.1
MAX_BYTES_PER_MESSAGE = 2 * 1024 * 1024


class OutboxFull(Exception):
    """The node does not take messages as fast as they come."""


class SessionEnded(Exception):
    """The node is gone; what it was doing is lost."""


@dataclass(slots=True)
class Pending:
    """Work that a node has not finished.

    Args:
        work_id: Unique in the gateway's life.
        sent_s: Monotonic clock.
        result: Done or Failed, or SessionEnded as exception.
        deltas: For text, what was generated so far and not yet taken; None after the last.
    """

    work_id: int
    sent_s: float
    result: asyncio.Future[Done | Failed]
    deltas: asyncio.Queue[Delta] | None = field(default=None)


class NodeSession:
    """A node's side of the stream as the gateway sees it.

    Args:
        hello: What the node said of itself.
        epoch: Given by the gateway; messages of another epoch are dropped.
        clock: Monotonic seconds.
    """

    def __init__(self, hello: NodeHello, *, epoch: int, clock: Callable[[], float]) -> None:
        self.hello = hello
        self.epoch = epoch
        self.draining = False
        self._draining_s: float | None = None
        self.sleeping = False
        self.running = 0
        self.idle_j: float | None = None
        self.temperature_c: float | None = None
        self.throttles: tuple[str, ...] = ()
        self.queued = 0
        self.engine_restarts = 0
        # What it was told last, see `orchestrator.fleet.spread`.
        self.spread_s = 0.0
        self.seen_s = clock()
        self.pending: dict[int, Pending] = {}
        self.ended = asyncio.Event()
        self._clock = clock
        self._sent_s = clock()
        self._interval_s = 1.0
        self._outbox: list[fleet_pb2.NodeCommand] = []
        # A message that commands are written in, one that is not submitted yet, and how many are in the outbox.
        self._message = fleet_pb2.ToNode()
        self._draft: fleet_pb2.NodeCommand | None = None
        self._drafts = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._received_sequence = 1
        self._sent_sequence = 0

    @property
    def name(self) -> str:
        """The node's name."""
        return self.hello.node

    # ---- out

    def send(self, command: fleet_pb2.NodeCommand) -> None:
        """Queue a command; never blocks.

        Raises:
            OutboxFull: Too many commands wait.
            SessionEnded: The stream is gone.
        """
        if self.ended.is_set():
            raise SessionEnded(self.name)
        if len(self._outbox) >= MAX_OUTBOX:
            raise OutboxFull(self.name)
        self._outbox.append(command)
        now_s = self._clock()
        self._interval_s += SMOOTHING * (now_s - self._sent_s - self._interval_s)
        self._sent_s = now_s
        alone = self._interval_s > BUSY_INTERVAL_S or len(self.pending) < GATHER_FROM
        if alone or command.HasField("turn") or len(self._outbox) >= GATHER_MOST:
            self._wake.set()
        elif len(self._outbox) == 1:
            asyncio.get_running_loop().call_later(GATHER_S, self._wake.set)

    def draft(self) -> fleet_pb2.NodeCommand:
        """A command to fill in and submit at once, written where it is sent from where nothing else comes in between:
        one that is put into a message is copied."""
        if self._draft is not None:
            # It was given up.
            del self._message.commands[-1]
        self._draft = self._message.commands.add()
        return self._draft

    def holds(self, command: fleet_pb2.NodeCommand) -> bool:
        """Whether a command that was queued has not been sent yet."""
        return any(one is command for one in self._outbox)

    def submit(self, command: fleet_pb2.NodeCommand, *, streaming: bool = False) -> Pending:
        """Send a command that is work and remember that its result is owed."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self.send(command)
        if command is self._draft:
            self._draft, self._drafts = None, self._drafts + 1
        work_id = command.work.work_id
        deltas: asyncio.Queue[Delta] | None = asyncio.Queue() if streaming else None
        pending = self.pending[work_id] = Pending(work_id, self._sent_s, self._loop.create_future(), deltas)
        return pending

    def turn(self, pending: Pending, turn: fleet_pb2.Turn) -> None:
        """Go on with a text that several nodes write. Raises as `send`."""
        turn.work_id, pending.sent_s = pending.work_id, self._clock()
        self.send(fleet_pb2.NodeCommand(turn=turn))

    def abandon(self, pending: Pending) -> None:
        """The result is no longer wanted: tell the node unless it has already answered."""
        if self.pending.pop(pending.work_id, None) is None or self.ended.is_set():
            return
        if len(self._outbox) < MAX_OUTBOX:
            self.send(fleet_pb2.NodeCommand(cancel=fleet_pb2.Cancel(work_id=pending.work_id)))

    async def write(self, write: Callable[[fleet_pb2.ToNode], Awaitable[None]]) -> None:
        """Send what is queued until the session ends; the only writer of the stream."""
        while not self.ended.is_set():
            await self._wake.wait()
            self._wake.clear()
            while self._outbox:
                await write(self._next_message())

    def _next_message(self) -> fleet_pb2.ToNode:
        message, count = self._message, len(self._outbox)
        whole = self._drafts == count == len(message.commands) <= MAX_COMMANDS_PER_MESSAGE
        self._message, self._draft, self._drafts = fleet_pb2.ToNode(), None, 0
        if whole and (count == 1 or message.ByteSize() <= MAX_BYTES_PER_MESSAGE):
            self._outbox = []
            self._sent_sequence += 1
            message.epoch, message.sequence = self.epoch, self._sent_sequence
            return message
        count = self._fitting() if count > 1 else 1
        commands, self._outbox = self._outbox[:count], self._outbox[count:]
        turns = [command.turn for command in commands if command.HasField("turn")]
        if len(turns) == len(commands):
            return fleet_pb2.ToNode(turns=turns)
        self._sent_sequence += 1
        return fleet_pb2.ToNode(epoch=self.epoch, sequence=self._sent_sequence, commands=commands)

    def _fitting(self) -> int:
        """How many of the queued commands fit into one message; the first does, whatever its size."""
        size = 0
        for count, command in enumerate(self._outbox[:MAX_COMMANDS_PER_MESSAGE]):
            size += command.ByteSize()
            if count and size > MAX_BYTES_PER_MESSAGE:
                return count
        return min(len(self._outbox), MAX_COMMANDS_PER_MESSAGE)

    # ---- in

    def accepts(self, epoch: int, sequence: int) -> bool:
        """Whether a message belongs to this stream and is new; notes that the node was heard."""
        if epoch != self.epoch or sequence <= self._received_sequence:
            return False
        self._received_sequence = sequence
        self.seen_s = self._clock()
        return True

    def heard(self) -> None:
        """The node has said something."""
        self.seen_s = self._clock()

    def settle(self, result: Done | Failed) -> None:
        """Give a result to whoever waits for it; a late one is dropped."""
        pending = self.pending.pop(result.work_id, None)
        if pending is not None and not pending.result.done():
            pending.result.set_result(result)

    def reject(self, failed: Failed) -> None:
        """What the node says in the middle of its work is no answer: that work has failed, and the node is told."""
        pending = self.pending.get(failed.work_id)
        if pending is None:
            return
        if not pending.result.done():
            pending.result.set_result(failed)
        self.abandon(pending)

    def deliver(self, delta: Delta) -> None:
        """Give a piece of text to whoever waits for it."""
        pending = self.pending.get(delta.work_id)
        if pending is not None and pending.deltas is not None:
            pending.deltas.put_nowait(delta)

    def drain(self) -> None:
        """From now on it takes nothing new."""
        if not self.draining:
            self.draining, self._draining_s = True, self._clock()

    def drained_s(self) -> float | None:
        """Seconds since it takes nothing new; None while it does."""
        return None if self._draining_s is None else self._clock() - self._draining_s

    def end(self) -> None:
        """The stream is gone: everything that is owed fails at once."""
        if self.ended.is_set():
            return
        self.ended.set()
        self._wake.set()
        for pending in self.pending.values():
            if not pending.result.done():
                pending.result.set_exception(SessionEnded(self.name))
        self.pending.clear()
