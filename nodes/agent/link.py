"""One gateway's end of an agent: a session with it, and the next one whenever it has ended.

An agent has a link to each of its gateways. They share the engine, the meter and the slots, so that together they get
no more work done here than one alone would.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc.aio
import structlog

from nodes.agent.backoff import full_jitter_s
from nodes.agent.session import Session, SessionEnd
from nodes.agent.sleep import Suspender
from nodes.agent.wire import FleetStream
from nodes.identity.diagnosis import wants_tls
from nodes.identity.errors import IdentityProblem
from nodes.identity.https import place_of
from nodes.identity.keeper import BACK_OFF_S, Keeper

UNAVAILABLE = "UNAVAILABLE"
# A session that lasted this long was a good one: the next attempt starts without a history of failures.
SETTLED_S = 5.0

log = structlog.get_logger("nodes.agent")


@dataclass(frozen=True)
class Way:
    """How an agent reaches its gateways.

    Attributes:
        dial: Opens a channel to HOST:PORT.
        key: What the node shows; read anew for every connection.
        keeper: Says why TLS fails; None where there is no identity.
        rng: Jitter of the back-off.
        suspender: Puts this machine to sleep; None where its operator did not allow it.
    """

    dial: Callable[[str], grpc.aio.Channel]
    key: Callable[[], str]
    keeper: Keeper | None
    rng: random.Random
    suspender: Suspender | None = None


class Link:
    """Sessions with one gateway, one after the other, until drained.

    Args:
        target: HOST:PORT.
        way: How it is reached.
        make_session: Makes a session on an open stream.
        ended: Hears of the end of each.
    """

    def __init__(
        self,
        target: str,
        way: Way,
        make_session: Callable[[Link, FleetStream], Session],
        ended: Callable[[Link], None] = lambda _link: None,
    ) -> None:
        self.target = target
        self.idle_j = 0.0
        self._way = way
        self._make_session = make_session
        self._ended = ended
        self._session: Session | None = None
        self._draining = asyncio.Event()
        self._asked_tls = False
        self._coming_again = False

    @property
    def joined(self) -> Session | None:
        """The session that the gateway has taken up, if there is one now."""
        return self._session if self._session is not None and self._session.joined else None

    async def run(self) -> None:
        """Serve until drained; dials again for as long as it takes.

        Raises:
            SessionRejected: if the gateway refuses this node for good.
            IdentityProblem: if TLS with the gateway cannot come about.
        """
        failures, last_why, spread_s = 0, "", 0.0
        while not self._draining.is_set():
            started_s = time.monotonic()
            session, end = await self._one_session()
            if end is SessionEnd.ASLEEP and self._way.suspender is not None:
                await self._way.suspender.suspend(self._draining)
                continue
            again, self._coming_again = self._coming_again, False
            if end is SessionEnd.DRAINED:
                if not again:
                    break
                continue
            pause_s = 0.0 if session.joined else await self._look_at_tls(session)
            # One line per change of state, however long the gateway stays away.
            if session.joined or session.why != last_why:
                log.warning("no gateway", gateway=self.target, why=session.why, joined=session.joined)
            last_why = session.why
            spread_s = session.spread_s if session.joined else spread_s
            settled = session.joined and time.monotonic() - started_s > SETTLED_S
            failures = 0 if settled else failures + 1
            await self._wait(max(pause_s, full_jitter_s(failures, self._way.rng, spread_s=spread_s)))

    def drain(self, reason: str, *, timeout_s: float | None) -> None:
        """Finish what runs, take nothing new; `run` returns then."""
        self._draining.set()
        if self._session is not None:
            self._session.drain(reason, timeout_s=timeout_s)

    def come_again(self, reason: str, *, timeout_s: float) -> None:
        """Finish what runs, then connect anew."""
        # Also one that is being joined: it was dialled with what is old now.
        if self._session is not None and not self._draining.is_set():
            self._coming_again = True
            self._session.drain(reason, timeout_s=timeout_s)

    async def _one_session(self) -> tuple[Session, SessionEnd]:
        channel = self._way.dial(self.target)
        try:
            session = self._make_session(self, FleetStream(channel, self._way.key()))
            self._session = session
            return session, await session.run()
        finally:
            self._session = None
            self._ended(self)
            await channel.close(grace=None)

    async def _look_at_tls(self, session: Session) -> float:
        """Whether TLS is what failed, since gRPC does not say; returns how long to wait at least.

        Raises:
            IdentityProblem: if trying again cannot help.
        """
        if self._way.keeper is not None:
            trouble = await self._way.keeper.trouble(self.target)
        elif session.why == UNAVAILABLE and not self._asked_tls:
            self._asked_tls = True
            trouble = await asyncio.to_thread(wants_tls, place_of(self.target))
        else:
            trouble = None
        if trouble is None:
            return 0.0
        if not trouble.passing:
            raise IdentityProblem(f"{trouble.cause.value}: {trouble.text}")
        session.why = f"{trouble.cause.value}: {trouble.text}"
        return BACK_OFF_S

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._draining.wait()
        except TimeoutError:
            return
