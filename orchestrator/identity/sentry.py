"""Watches over nodes' streams: who may open one, and when one that is open must end.

A TLS connection outlives its certificate, so what was true when it began is asked again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from edgewise.v1 import fleet_pb2
from orchestrator.fleet.fleet import Fleet, Refusal
from orchestrator.fleet.session import NodeSession, OutboxFull, SessionEnded
from orchestrator.identity.peers import peer_of
from orchestrator.identity.records import Objection, Peer
from orchestrator.identity.registrar import Registrar

log = structlog.get_logger("identity")

SWEEP_S = 0.5
# So long before its certificate expires a session gets no new work. Agents come back with a renewed one long before.
DRAIN_S = 5.0
# How long a node has to read why its stream ends.
FAREWELL_S = 0.2


@dataclass(frozen=True)
class Watched:
    """An open session; its end is on the monotonic clock, which nobody sets."""

    peer: Peer
    ends_s: float


class Sentry:
    """Judges streams by the certificate of their connection.

    Args:
        registrar: Knows whose certificates are good.
        fleet: Where sessions are.
        clock_s: Monotonic seconds.
        clock_unix_s: Wall time.
    """

    def __init__(
        self, registrar: Registrar, fleet: Fleet, *, clock_s: Callable[[], float], clock_unix_s: Callable[[], float]
    ) -> None:
        self._registrar = registrar
        self._fleet = fleet
        self._clock_s = clock_s
        self._clock_unix_s = clock_unix_s
        self._watched: dict[NodeSession, Watched] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def refusal(self, context: Any, claimed: str) -> Refusal | None:
        """Why this connection may not speak for the node that it claims to be, by what the book says now."""
        peer = peer_of(context)
        if peer is None:
            return Refusal("IDENTITY_REQUIRED", "This connection shows no certificate of a node.", retryable=False)
        if peer.name != claimed:
            text = "The node says another name than its certificate does; drop --name, or join under that name."
            return Refusal("IDENTITY_MISMATCH", text, retryable=False)
        objection = self._registrar.objection(peer)
        if objection is None:
            return None
        return Refusal(objection.reason, objection.message, retryable=False)

    def watch(self, context: Any, session: NodeSession) -> None:
        """Keep an eye on a session that has begun."""
        peer = peer_of(context)
        if peer is not None:
            left_s = peer.expires_unix_s - self._clock_unix_s()
            self._watched[session] = Watched(peer, self._clock_s() + left_s)

    async def sweep(self) -> None:
        """End sessions whose certificate is no longer good, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self.look()

    def look(self) -> None:
        """One round; also at once after a revocation."""
        now_s = self._clock_s()
        for session, watched in list(self._watched.items()):
            if session.ended.is_set():
                del self._watched[session]
                continue
            objection = self._objection(watched, now_s)
            if objection is not None:
                self._end(session, objection)
            elif watched.ends_s - now_s < DRAIN_S and not session.draining:
                self._fleet.drain(session)

    def _objection(self, watched: Watched, now_s: float) -> Objection | None:
        if now_s >= watched.ends_s:
            return Objection("IDENTITY_EXPIRED", "The certificate of this connection has expired.", retryable=True)
        found = self._registrar.objection(watched.peer)
        # Whether a session has had its time is decided above, whatever happens to the wall clock.
        return None if found is None or found.reason == "IDENTITY_EXPIRED" else found

    def _end(self, session: NodeSession, objection: Objection) -> None:
        del self._watched[session]
        log.warning("node.put_out", node=session.name, reason=objection.reason)
        self._fleet.drain(session)
        rejected = fleet_pb2.Rejected(reason=objection.reason, message=objection.message, retryable=objection.retryable)
        with contextlib.suppress(SessionEnded, OutboxFull):
            session.send(fleet_pb2.NodeCommand(rejected=rejected))
        task = asyncio.ensure_future(self._leave(session))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _leave(self, session: NodeSession) -> None:
        await asyncio.sleep(FAREWELL_S)
        self._fleet.leave(session)
