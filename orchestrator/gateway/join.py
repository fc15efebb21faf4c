"""A node's stream from its hello to its end."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import grpc
import structlog

from edgewise.v1 import fleet_pb2
from orchestrator import __version__
from orchestrator.artifacts.desk import ModelDesk
from orchestrator.artifacts.wire import decode_report as decode_model_report
from orchestrator.errors import RequestError
from orchestrator.fleet.fleet import Fleet, Refusal
from orchestrator.fleet.session import NodeSession
from orchestrator.fleet.spread import is_stale, spread_s
from orchestrator.fleet.wire import (
    decode_arms,
    decode_delta,
    decode_done,
    decode_failed,
    decode_finals,
    decode_hello,
    decode_residency,
    decode_signals,
    decode_written,
)
from orchestrator.gateway.guard import Malformed
from orchestrator.gateway.pace import Pace
from orchestrator.personal.types import PersonalReport
from orchestrator.personal.wire import decode_report
from orchestrator.types import Energy, Failed, NodeHello, Provenance
from orchestrator.wire import decode_energy, decode_tensors

log = structlog.get_logger("fleet")

END = grpc.aio.EOF  # type: ignore[attr-defined]
HELLO_TIMEOUT_S = 10.0
SWEEP_S = 0.5
# Between putting away what the one and the next lost node leave behind.
PARTING_S = 0.002


class Afterwards(Protocol):
    """Takes what nodes tell of joules after the fact."""

    def take_finals(self, finals: Sequence[tuple[int, Energy]]) -> None:
        """Final joules of works, by their ids."""

    def take_idle(self, session: NodeSession, sum_j: float) -> None:
        """The running sum of a node's idle joules."""


class Witness(Protocol):
    """Knows who is at the other end of a connection."""

    async def refusal(self, context: Any, claimed: str) -> Refusal | None:
        """Why the connection may not speak for the node that it claims to be; None where it may."""

    def watch(self, context: Any, session: NodeSession) -> None:
        """A session of the connection has begun."""


def _unasked(node: str, report: PersonalReport) -> None:
    """Where nobody gives orders, nobody waits for reports."""
    log.debug("node.report_unasked", node=node, order=report.order_id)


class Joiner:
    """Takes nodes in, feeds their events to the fleet, sweeps leases.

    Args:
        fleet: Registry.
        heartbeat_s: How often nodes must say something.
        lease_s: How long a silent node is kept.
        afterwards: Takes joules that come after the answers.
    """

    def __init__(self, fleet: Fleet, *, heartbeat_s: float, lease_s: float, afterwards: Afterwards) -> None:
        self._fleet = fleet
        self._afterwards = afterwards
        self._heartbeat_s = heartbeat_s
        self._lease_s = lease_s
        # Addresses of all replicas, for nodes to keep a stream to each.
        self.gateways: Sequence[str] = ()
        self.reported: Callable[[str, PersonalReport], None] = _unasked
        self.models: ModelDesk | None = None
        self.pace = Pace()
        self._hellos = asyncio.Lock()
        self._partings = asyncio.Lock()

    async def serve(self, context: Any, witness: Witness | None = None) -> None:
        """Serve one node until its stream ends; without a witness nodes are who they say they are."""
        hello = await self._hello(context)
        if hello is None:
            return
        # What nobody else can do is not kept waiting.
        await self.pace.turn(lambda: self._fleet.lacks(hello))
        joined = (await witness.refusal(context, hello.node) if witness else None) or self._join(hello)
        if isinstance(joined, Refusal):
            log.warning("node.refused", node=hello.node, reason=joined.reason)
            await self._reject(context, joined)
            return
        if witness is not None:
            witness.watch(context, joined)
        log.info("node.joined", node=hello.node, device=hello.device, simulated=hello.simulated, arms=len(hello.arms))
        await self._converse(context, joined)

    async def _hello(self, context: Any) -> NodeHello | None:
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                message = await context.read()
        except TimeoutError:
            return None
        if message is END:
            return None
        async with self._hellos:
            # One in each turn of the event loop.
            await asyncio.sleep(0.0)
        try:
            if isinstance(message, Malformed):
                raise RequestError("MALFORMED_MESSAGE", "The first message is not valid.")
            if len(message.events) != 1 or message.events[0].WhichOneof("event") != "hello":
                raise RequestError("FIELD_REQUIRED", "The first message must be a hello and nothing else.")
            return decode_hello(message.events[0].hello)
        except RequestError as error:
            log.warning("node.refused", reason=error.reason, why=error.message)
            await self._reject(context, Refusal(error.reason, error.message, retryable=False))
            return None

    def _join(self, hello: NodeHello) -> NodeSession | Refusal:
        # Processor time: that others keep the machine busy is no reason to be slow.
        started_s = time.thread_time()
        joined = self._fleet.join(hello)
        self.pace.took(time.thread_time() - started_s)
        return joined

    async def _reject(self, context: Any, refusal: Refusal) -> None:
        rejected = fleet_pb2.Rejected(reason=refusal.reason, message=refusal.message, retryable=refusal.retryable)
        await context.write(fleet_pb2.ToNode(commands=[fleet_pb2.NodeCommand(rejected=rejected)]))

    async def _converse(self, context: Any, session: NodeSession) -> None:
        session.send(fleet_pb2.NodeCommand(welcome=self._welcome(session)))
        if self.models is not None:
            self.models.joined(session)
        writer = asyncio.create_task(session.write(context.write))
        ended = asyncio.create_task(session.ended.wait())
        reader = asyncio.create_task(self._read(context, session))
        try:
            await asyncio.wait({writer, reader, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # At once: what the node owes goes elsewhere.
            self._fleet.leave(session)
            try:
                await self._parting()
            finally:
                for task in (writer, reader, ended):
                    task.cancel()
                await asyncio.gather(writer, reader, ended, return_exceptions=True)
                log.info("node.left", node=session.name)

    async def _parting(self) -> None:
        """Returns for one node after the other: where a switch fails, requests go on while what its nodes leave is put
        away."""
        async with self._partings:
            await asyncio.sleep(PARTING_S)

    def _welcome(self, session: NodeSession) -> fleet_pb2.Welcome:
        return fleet_pb2.Welcome(
            epoch=session.epoch,
            heartbeat_s=self._heartbeat_s,
            lease_s=self._lease_s,
            wanted_digests=self._fleet.wanted_digests(session.hello),
            gateway_version=__version__,
            gateways=self.gateways,
            spread_s=self._spread_s(session),
        )

    def _spread_s(self, session: NodeSession) -> float:
        session.spread_s = spread_s(len(self._fleet.sessions))
        return session.spread_s

    def _tell_spread(self, session: NodeSession) -> None:
        """Where the fleet has another size than when the node was told; asked when one is heard: not of all at once."""
        if is_stale(session.spread_s, spread_s(len(self._fleet.sessions))):
            session.send(fleet_pb2.NodeCommand(spread=fleet_pb2.Spread(seconds=self._spread_s(session))))

    async def _read(self, context: Any, session: NodeSession) -> None:
        while (message := await context.read()) is not END:
            if isinstance(message, Malformed):
                continue
            turns = message.written
            if turns:
                session.heard()
            elif not session.accepts(message.epoch, message.sequence):
                continue
            self._fleet.heard(session)
            for event in message.events:
                self._apply(session, event)
            for written in turns:
                self._apply(session, fleet_pb2.NodeEvent(written=written))

    def _apply(self, session: NodeSession, event: fleet_pb2.NodeEvent) -> None:
        """One event; a bad one is logged and dropped, the session goes on."""
        kind = event.WhichOneof("event")
        try:
            match kind:
                case "done":
                    session.settle(decode_done(event.done))
                case "failed":
                    session.settle(decode_failed(event.failed))
                case "delta":
                    session.deliver(decode_delta(event.delta))
                case "written":
                    session.deliver(decode_written(event.written))
                case "heartbeat":
                    session.running = event.heartbeat.running
                    session.queued = event.heartbeat.queued
                    session.engine_restarts = event.heartbeat.engine_restarts
                    self._fleet.signalled(session, *decode_signals(event.heartbeat))
                    self._afterwards.take_idle(session, event.heartbeat.idle_energy_j)
                    self._tell_spread(session)
                case "evidence":
                    tensors = decode_tensors(event.evidence.tensors, "evidence")
                    self._fleet.take_evidence(event.evidence.digest, tensors)
                case "arms_changed":
                    self._fleet.change_arms(session, decode_arms(event.arms_changed.arms, session.name))
                case "settled":
                    self._afterwards.take_finals(decode_finals(event.settled))
                case "draining":
                    self._fleet.drain(session)
                case "residency":
                    told = event.residency
                    arm = f"{told.expert}:{told.variant}"
                    self._fleet.change_residency(session, arm, decode_residency(told.residency))
                case "sleeping":
                    session.sleeping = session.hello.sleep is not None
                case "personal":
                    self.reported(session.name, decode_report(event.personal))
                case "chunk_wanted" if self.models is not None:
                    wanted = event.chunk_wanted
                    self.models.wants(session, wanted.sha256, wanted.offset, wanted.length)
                case "model" if self.models is not None:
                    self.models.reported(decode_model_report(session.name, event.model))
                case _:
                    log.warning("node.event_unknown", node=session.name)
        except RequestError as error:
            log.warning("node.event_invalid", node=session.name, kind=kind, reason=error.reason, why=error.message)
            if kind == "done":
                # Whoever waits for this result need not wait until the deadline to learn that it is none.
                energy = decode_energy(event.done.energy)
                session.settle(Failed(event.done.work_id, "OUTPUT_INVALID", "", final=False, energy=energy))
            elif kind == "written":
                # Nor does whoever waits for its turn of a text, and its node would wait for the next one.
                untold = Energy(math.nan, Provenance.UNMEASURED, "")
                session.reject(Failed(event.written.work_id, "OUTPUT_INVALID", "", final=False, energy=untold))

    def drain(self, session: NodeSession, reason: str) -> None:
        """Have a node finish what it runs and leave."""
        self._fleet.drain(session)
        session.send(fleet_pb2.NodeCommand(drain=fleet_pb2.Drain(reason=reason)))

    async def sweep(self) -> None:
        """End sessions whose lease ran out, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            for session in self._fleet.expired():
                log.warning("node.lease_expired", node=session.name)
                self._fleet.leave(session)
