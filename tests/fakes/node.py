"""A node for tests: it joins a real gateway over real gRPC and keeps the contract of `fleet.proto`.

What it announces is data (`tests.fakes.arms`), what it does with work is a behaviour (`tests.fakes.behaviours`)::

    async with FakeNode(address, arms=[FakeArm("small")], behaviour=answers(7)) as node:
        ...
        await node.received(1)

It can also misbehave: fall silent while its connection lives (`freeze`), break off (`vanish`), or send any message
(`send_raw`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from edgewise.v1 import common_pb2 as common
from edgewise.v1 import fleet_pb2 as fleet
from edgewise.v1 import fleet_pb2_grpc as fleet_grpc
from orchestrator.fleet.evidence import tensor_digest
from orchestrator.wire import encode_tensor
from tests.fakes.arms import FakeArm, Tensors, tensor_task, text_task
from tests.fakes.turn import Behaviour, Turn

TIMEOUT_S = 5.0
PROTOCOL_VERSION = 1
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 8 << 20))

Found = TypeVar("Found")


class JoinRefused(Exception):
    """The gateway did not take the node."""

    def __init__(self, rejected: fleet.Rejected) -> None:
        super().__init__(f"{rejected.reason}: {rejected.message}")
        self.reason = rejected.reason
        self.message = rejected.message
        self.retryable = rejected.retryable


@dataclass
class Seen:
    """What the gateway has told the node."""

    works: list[fleet.Work] = field(default_factory=list)
    # Monotonic seconds by work id.
    cancelled_s: dict[int, float] = field(default_factory=dict)
    drained: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    suspended: asyncio.Event = field(default_factory=asyncio.Event)
    peers: list[fleet.WakePeer] = field(default_factory=list)
    spreads_s: list[float] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)


class FakeNode:
    """One node; use it as an async context manager, or call `join` and `leave`.

    Args:
        target: The gateway's address.
        name: The node's name.
        arms: What it announces.
        behaviour: What it does with work.
        by_expert: What it does with work for some experts.
        reference: The tensor task's reference set ("inputs" and "labels"), sent when it is wanted.
        channel: To the gateway; None opens one without TLS.
        hello: Fields of the hello that replace the usual ones.
    """

    def __init__(
        self,
        target: str,
        *,
        name: str = "fake-1",
        arms: Sequence[FakeArm] = (FakeArm(),),
        behaviour: Behaviour,
        by_expert: Mapping[str, Behaviour] | None = None,
        reference: Tensors | None = None,
        channel: grpc.aio.Channel | None = None,
        **hello: Any,
    ) -> None:
        self.name = name
        self.arms = {(arm.expert, arm.variant): arm for arm in arms}
        self.behaviour = behaviour
        self.by_expert = dict(by_expert or {})
        self.seen = Seen()
        self.epoch = 0
        self.welcome = fleet.Welcome()
        self._reference = dict(reference or {})
        self._hello = hello
        self._channel = channel or grpc.aio.insecure_channel(target, options=OPTIONS)
        self._outbox: asyncio.Queue[fleet.FromNode | None] = asyncio.Queue()
        self._awake = asyncio.Event()
        self._awake.set()
        self._sequence = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: dict[int, asyncio.Task[None]] = {}
        self._turns: dict[int, Turn] = {}
        self._call: Any = None

    # ---- joining and leaving

    async def __aenter__(self) -> Self:
        await self.join()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.leave()

    def hello(self) -> fleet.Hello:
        names = dict.fromkeys(arm.task for arm in self.arms.values())
        kinds = {True: text_task, False: tensor_task}
        tasks = [kinds[name == "chat"](name, reference=self._reference) for name in names]
        fields: dict[str, Any] = {
            "node": self.name,
            "software_version": "0.0-fake",
            "protocol_version": PROTOCOL_VERSION,
            "device": "fake",
            "simulated": True,
            "energy_method": "profile:fake",
            "energy_provenance": common.PROVENANCE_MODELLED,
            "tasks": tasks,
            "arms": [arm.message() for arm in self.arms.values()],
            "concurrency": 8,
            "queue_limit": 64,
        }
        return fleet.Hello(**(fields | self._hello))

    async def join(self) -> None:
        """Open the stream, say hello, send the evidence that is wanted.

        Raises:
            JoinRefused: The gateway did not take the node.
        """
        connect: Any = fleet_grpc.FleetStub(self._channel).Connect
        self._call = connect()
        await self._call.write(self._message(fleet.NodeEvent(hello=self.hello())))
        async with asyncio.timeout(TIMEOUT_S):
            reply = await self._call.read()
        command = reply.commands[0]
        if command.WhichOneof("command") == "rejected":
            self._call.cancel()
            await self._channel.close(grace=None)
            raise JoinRefused(command.rejected)
        self.welcome = command.welcome
        self.epoch = self.welcome.epoch
        self._send_evidence()
        # Work may come along with the welcome.
        for further in reply.commands[1:]:
            self._obey(further)
        for loop in (self._read(), self._write(), self._beat()):
            self._spawn(loop)

    async def leave(self) -> None:
        """Close the stream as an agent does that has finished: half-close, wait for the gateway's end."""
        if self._awake.is_set() and not self.seen.ended.is_set():
            self._outbox.put_nowait(None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TIMEOUT_S):
                    await self.seen.ended.wait()
        await self.vanish()

    async def vanish(self) -> None:
        """Break off, as when the process is killed."""
        self._call.cancel()
        for task in [*self._tasks, *self._running.values()]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._running.values(), return_exceptions=True)
        await self._channel.close(grace=None)

    def freeze(self) -> None:
        """Fall silent: the connection lives, nothing is said any more (what would be said is kept)."""
        self._awake.clear()

    def thaw(self) -> None:
        """Speak again, first what was kept."""
        self._awake.set()

    # ---- speaking

    def emit(self, *events: fleet.NodeEvent) -> None:
        """Send events in one message."""
        self.send_raw(self._message(*events))

    def send_raw(self, message: fleet.FromNode) -> None:
        """Send any message, also one that breaks the contract."""
        self._outbox.put_nowait(message)

    def _message(self, *events: fleet.NodeEvent) -> fleet.FromNode:
        self._sequence += 1
        return fleet.FromNode(epoch=self.epoch, sequence=self._sequence, events=events)

    def send_evidence(self, digest: str, tensors: Tensors) -> None:
        encoded = [encode_tensor(name, array) for name, array in tensors.items()]
        self.emit(fleet.NodeEvent(evidence=fleet.Evidence(digest=digest, tensors=encoded)))

    def _send_evidence(self) -> None:
        held = [self._reference, *(arm.evidence_tensors for arm in self.arms.values())]
        by_digest = {tensor_digest(tensors): tensors for tensors in held if tensors}
        for digest in self.welcome.wanted_digests:
            if digest in by_digest:
                self.send_evidence(digest, by_digest[digest])

    async def _write(self) -> None:
        while (message := await self._outbox.get()) is not None:
            await self._awake.wait()
            await self._call.write(message)
        await self._call.done_writing()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.welcome.heartbeat_s)
            self.emit(fleet.NodeEvent(heartbeat=fleet.Heartbeat(running=len(self._running))))

    # ---- listening

    async def received(self, works: int) -> fleet.Work:
        """The work number `works`, counted from 1, as soon as it has come."""
        return await self._once(lambda: self.seen.works[works - 1] if len(self.seen.works) >= works else None)

    async def cancelled(self, work_id: int) -> float:
        """When (monotonic seconds) the gateway cancelled a piece of work."""
        return await self._once(lambda: self.seen.cancelled_s.get(work_id))

    async def _once(self, look: Callable[[], Found | None]) -> Found:
        async with asyncio.timeout(TIMEOUT_S), self.seen.changed:
            while (found := look()) is None:
                await self.seen.changed.wait()
            return found

    async def _read(self) -> None:
        while (message := await self._next()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
            for command in message.commands:
                self._obey(command)
            for turn in message.turns:
                self._obey(fleet.NodeCommand(turn=turn))
            async with self.seen.changed:
                self.seen.changed.notify_all()
        self.seen.ended.set()

    async def _next(self) -> Any:
        """The gateway's next message; nothing more ever comes of one that died."""
        try:
            return await self._call.read()
        except grpc.aio.AioRpcError:
            return await asyncio.Future()

    def _obey(self, command: fleet.NodeCommand) -> None:
        match command.WhichOneof("command"):
            case "work":
                self.seen.works.append(command.work)
                self._start(command.work)
            case "cancel":
                self.seen.cancelled_s[command.cancel.work_id] = time.monotonic()
                running = self._running.get(command.cancel.work_id)
                if running is not None:
                    running.cancel()
            case "spread":
                self.seen.spreads_s.append(command.spread.seconds)
            case "turn":
                if (turn := self._turns.get(command.turn.work_id)) is not None:
                    turn.turns.put_nowait(command.turn)
            case "drain":
                self.seen.drained.set()
            case "suspend":
                self.seen.suspended.set()
            case "wake_peer":
                self.seen.peers.append(command.wake_peer)

    def _start(self, work: fleet.Work) -> None:
        turn = Turn(work, self.arms[work.expert, work.variant], self.emit, self.vanish)
        if work.text.HasField("shared"):
            turn.turns.put_nowait(work.text.shared.first)
            self._turns[work.work_id] = turn
        task = asyncio.ensure_future(self._behave(turn))
        self._running[work.work_id] = task
        task.add_done_callback(lambda _: self._running.pop(work.work_id, None))

    async def _behave(self, turn: Turn) -> None:
        try:
            await self.by_expert.get(turn.work.expert, self.behaviour)(turn)
        except asyncio.CancelledError:
            turn.failed("CANCELLED")

    def _spawn(self, loop: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(loop)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
