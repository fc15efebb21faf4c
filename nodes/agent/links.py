"""All gateways of an agent: those that it was started with, and replicas that these tell it of."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence

import structlog

from nodes.agent.link import Link
from nodes.agent.session import Session
from nodes.config import check_target
from nodes.errors import NodeError

# A gateway that tells of more has something else in mind.
MAX_LINKS = 16

log = structlog.get_logger("nodes.agent")


class Links:
    """Runs a link to each gateway until all have ended; a gateway that drains this node ends them all.

    Args:
        targets: HOST:PORT of those that are known from the start.
        make: Makes the link to another one.
    """

    def __init__(self, targets: Sequence[str], make: Callable[[str], Link]) -> None:
        self._make = make
        self._links = {target: make(target) for target in targets}
        self._running: set[asyncio.Task[None]] = set()
        self._drained = False

    @property
    def first(self) -> str:
        """The gateway that was named first."""
        return next(iter(self._links))

    def joined_first(self) -> Session | None:
        """The session that the gateway that was named first has taken up, if it has now."""
        return self._links[self.first].joined

    def joined(self) -> list[Session]:
        """The sessions that gateways have taken up."""
        return [session for link in self._links.values() if (session := link.joined) is not None]

    async def run(self) -> None:
        """Serve all of them until drained.

        Raises:
            SessionRejected: if no gateway is left that does not refuse this node for good.
            IdentityProblem: if no gateway is left with which TLS can come about.
        """
        failures: list[BaseException] = []
        try:
            for link in self._links.values():
                self._start(link)
            while self._running:
                done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                self._running -= done
                failures += [error for task in done if (error := task.exception()) is not None]
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
        if failures and not self._drained:
            raise failures[0]

    def told(self, targets: Iterable[str]) -> None:
        """A gateway tells of its replicas: those that are not known yet are served from now on."""
        for target in targets:
            if target in self._links or self._drained or len(self._links) >= MAX_LINKS:
                continue
            with contextlib.suppress(ValueError):
                check_target(target)
                log.info("another gateway", gateway=target)
                self._start(self._links.setdefault(target, self._make(target)))

    def _start(self, link: Link) -> None:
        self._running.add(asyncio.ensure_future(self._serve(link)))

    async def _serve(self, link: Link) -> None:
        try:
            await link.run()
        except NodeError as error:
            # The others may still want this node.
            log.error("gateway given up", gateway=link.target, why=error.message)
            raise
        self.drain("drained by a gateway", timeout_s=None)

    def drain(self, reason: str, *, timeout_s: float | None) -> None:
        """Finish what runs, take nothing new; `run` returns then."""
        if not self._drained:
            self._drained = True
            for link in self._links.values():
                link.drain(reason, timeout_s=timeout_s)

    def come_again(self, reason: str, *, timeout_s: float) -> None:
        """Finish what runs, then connect to all anew."""
        for link in self._links.values():
            link.come_again(reason, timeout_s=timeout_s)
