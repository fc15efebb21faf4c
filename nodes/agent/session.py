"""One session with the gateway: hello, welcome, evidence, then work until drain or the end of the stream.

Four tasks share a session: one reads, one writes, one beats, one waits for a drain. The session is over as soon as
one of them is.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum

import structlog

from nodes.agent import messages as m
from nodes.agent.backoff import checked_spread_s
from nodes.agent.desk import Desk
from nodes.agent.order import IncomingOrder
from nodes.agent.outbox import Outbox, OutboxClosed
from nodes.agent.sleep import send_magic_packet
from nodes.agent.wire import FleetStream, StreamBroken
from nodes.arms import Tensors
from nodes.energy.contract import Settlement
from nodes.errors import SessionRejected

WELCOME_TIMEOUT_S = 5.0
FAREWELL_TIMEOUT_S = 2.0
DEFAULT_HEARTBEAT_S = 2.0

log = structlog.get_logger("nodes.session")


class SessionEnd(StrEnum):
    """How a session ended."""

    LOST = "lost"
    REFUSED = "refused"
    DRAINED = "drained"
    ASLEEP = "asleep"


class Session:
    """Runs once. All methods on one event loop.

    Args:
        stream: An open stream to the gateway.
        hello: What this node offers.
        evidence: Tensors by digest.
        make_desk: Makes the desk that does the work, given where events go.
        beat: Makes a heartbeat of the present moment.
        models: Takes what is said about pushed models; None where none are taken.
        told: Takes the addresses of the gateway's replicas.
    """

    def __init__(
        self,
        stream: FleetStream,
        *,
        hello: m.Hello,
        evidence: Callable[[str], Tensors | None],
        make_desk: Callable[[Callable[[m.Event], Awaitable[None]]], Desk],
        beat: Callable[[], m.Heartbeat],
        models: Callable[[m.ModelsWanted | m.ModelChunk], None] | None = None,
        told: Callable[[Sequence[str]], None],
    ) -> None:
        self._stream = stream
        self._hello = hello
        self._evidence = evidence
        self._outbox = Outbox(more=lambda: self._desk.busy > 0)
        self._desk = make_desk(self._outbox.put)
        self._beat = beat
        self._models = models
        self._told = told
        self._sequence = 0
        self._order = IncomingOrder(0, 0)
        self._drain_reason: asyncio.Future[tuple[str, float | None]] = asyncio.get_running_loop().create_future()
        self._drained = False
        self._to_sleep = False
        self.joined = False
        self.spread_s = 0.0
        self.why = ""

    async def run(self) -> SessionEnd:
        """Join and serve until the session ends.

        Raises:
            SessionRejected: if the gateway refuses this node for good.
        """
        try:
            first = await self._join()
            return SessionEnd.REFUSED if first is None else await self._serve(first)
        except StreamBroken as broken:
            self._note_broken(broken)
        except TimeoutError:
            self.why = f"no welcome within {WELCOME_TIMEOUT_S:g} s"
        finally:
            self._outbox.close()
            await self._desk.abandon()
            self._stream.cancel()
        return SessionEnd.LOST

    def drain(self, reason: str, *, timeout_s: float | None = None) -> None:
        """Finish what runs, for at most `timeout_s`, take nothing new, then end the session."""
        if not self._drain_reason.done():
            self._drain_reason.set_result((reason, timeout_s))

    async def announce(self, arms: Sequence[m.OfferedArm]) -> None:
        """Tell the gateway that the offer changed."""
        with contextlib.suppress(OutboxClosed):
            await self._outbox.put(m.ArmsChanged(tuple(arms)))

    async def tell(self, event: m.Event) -> bool:
        """Queue an event; False where the session is over."""
        try:
            await self._outbox.put(event)
        except OutboxClosed:
            return False
        return True

    async def settled(self, settlements: Sequence[Settlement]) -> None:
        """Tell the gateway the final joules of this stream's work."""
        await self._desk.settled(settlements)

    # ---- joining

    async def _join(self) -> Sequence[m.Command] | None:
        """Say hello; the commands that came along with the welcome, None where the node may try again later."""
        async with asyncio.timeout(WELCOME_TIMEOUT_S):
            await self._send([self._hello])
            received = await self._stream.receive()
        if received is None or not received.commands:
            self.why = "the gateway ended the stream before a welcome"
            return None
        first, *rest = received.commands
        match first:
            case m.Welcome():
                self._order = IncomingOrder(first.epoch, received.sequence)
                return [first, *rest]
            case m.Rejected(reason, message, retryable):
                if not retryable:
                    raise SessionRejected(reason, message)
                self.why = f"{reason}: {message}"
        return None

    async def _serve(self, first: Sequence[m.Command]) -> SessionEnd:
        welcome = first[0]
        if not isinstance(welcome, m.Welcome):
            return SessionEnd.REFUSED
        self.joined = True
        log.info("joined", gateway=welcome.gateway_version, epoch=welcome.epoch)
        self.spread_s = checked_spread_s(welcome.spread_s)
        self._told(welcome.gateways)
        reader, writer = self._spawn(self._read(first[1:])), self._spawn(self._write())
        beater, drainer = self._spawn(self._beat_every(_heartbeat_s(welcome))), self._spawn(self._drain())
        evidence = self._spawn(self._send_evidence(welcome.wanted_digests))
        tasks = [reader, writer, beater, drainer, evidence]
        try:
            await asyncio.wait({reader, writer, drainer}, return_when=asyncio.FIRST_COMPLETED)
            for task in (reader, writer, drainer):
                if task.done():
                    task.result()
            if not self._drained:
                return SessionEnd.LOST
            return SessionEnd.ASLEEP if self._to_sleep else SessionEnd.DRAINED
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, work: Awaitable[None]) -> asyncio.Future[None]:
        return asyncio.ensure_future(work)

    def _note_broken(self, broken: StreamBroken) -> None:
        self.why = broken.code
        if broken.code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            raise SessionRejected(broken.code, "the gateway does not accept this node's identity")

    # ---- the tasks of a session

    async def _read(self, first: Sequence[m.Command]) -> None:
        for command in first:
            self._apply(command)
        while (received := await self._stream.receive()) is not None:
            if not (received.in_turns or self._order.accept(received.epoch, received.sequence)):
                log.warning("stale message dropped", epoch=received.epoch, sequence=received.sequence)
                continue
            for command in received.commands:
                self._apply(command)
        self.why = "the gateway ended the stream"

    def _apply(self, command: m.Command) -> None:
        match command:
            case m.Work():
                self._desk.take(command)
            case m.NextTurn(work_id, turn):
                self._desk.turn(work_id, turn)
            case m.Cancel(work_id):
                self._desk.cancel(work_id)
            case m.Keep() | m.PersonalOrder() | m.ModelOrder():
                self._desk.order(command)
            case m.ModelsWanted() | m.ModelChunk():
                if self._models is not None:
                    self._models(command)
            case m.Spread(seconds):
                self.spread_s = checked_spread_s(seconds)
            case m.Drain(reason):
                self.drain(reason or "asked by the gateway")
            case m.Suspend(reason):
                self._suspend(reason)
            case m.WakePeer(mac, wake_address):
                if self._hello.relays_wake:
                    send_magic_packet(mac, wake_address)
            case m.Rejected(reason, message, retryable):
                if not retryable:
                    raise SessionRejected(reason, message)
                log.warning("rejected", reason=reason)
            case m.Welcome():
                log.warning("second welcome ignored")

    def _suspend(self, reason: str) -> None:
        """Only where the operator allowed it, whatever the gateway says, and not while the node leaves for good."""
        if self._hello.sleep is None:
            log.warning("order to sleep not followed: this node runs without --allow-suspend")
        elif not self._drain_reason.done():
            self._to_sleep = True
            self.drain(reason or "to sleep")

    async def _write(self) -> None:
        while events := await self._outbox.take():
            await self._send(events)
        await self._stream.finish()
        # The reader sees the gateway end its half; until then what was sent may still be on its way.
        await asyncio.Event().wait()

    async def _send(self, events: Sequence[m.Event]) -> None:
        self._sequence += 1
        await self._stream.send(self._order.epoch, self._sequence, events)

    async def _beat_every(self, heartbeat_s: float) -> None:
        while True:
            await self._outbox.put(self._beat())
            await asyncio.sleep(heartbeat_s)

    async def _send_evidence(self, digests: Sequence[str]) -> None:
        for digest in digests:
            tensors = self._evidence(digest)
            if tensors is None:
                log.warning("gateway wants evidence that this node does not have", digest=digest[:12])
            else:
                await self._outbox.put(m.Evidence(digest, tensors))

    async def _drain(self) -> None:
        reason, timeout_s = await self._drain_reason
        log.info("draining", reason=reason)
        self._desk.refuse_new()
        await self._outbox.put(m.Draining(reason))
        finished = await self._desk.finish(timeout_s)
        if not finished:
            log.warning("work left unfinished", timeout_s=timeout_s)
        if self._to_sleep:
            await self._outbox.put(m.Sleeping())
        self._drained = True
        self._outbox.close()
        # Ends early when the reader does; the timeout is for a gateway that does not hang up.
        await asyncio.sleep(FAREWELL_TIMEOUT_S)


def _heartbeat_s(welcome: m.Welcome) -> float:
    beat_s = welcome.heartbeat_s
    return min(beat_s, 60.0) if math.isfinite(beat_s) and beat_s > 0.0 else DEFAULT_HEARTBEAT_S
