"""Keeps an agent's identity: connects with it, renews it in time, and says why it is not accepted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import grpc.aio
import structlog

from nodes.agent.channel import OPTIONS
from nodes.identity import folder as kept
from nodes.identity import keys
from nodes.identity.diagnosis import Cause, Shown, Trouble, diagnose, own_expired_text
from nodes.identity.errors import IdentityProblem
from nodes.identity.https import Place, place_of
from nodes.identity.wire import RenewalFailed, renew

log = structlog.get_logger("nodes.identity")

# How often the age of the certificate is looked at, and how soon a failed renewal is tried again.
LOOK_S = 30.0
# Who is not accepted does not ask again at once.
BACK_OFF_S = 30.0


class Keeper:
    """An identity in its folder, read anew for every connection.

    Args:
        folder: Where `edgewise node join` put it.
        clock_unix_s: Wall time.

    Raises:
        IdentityProblem: It cannot be read.
    """

    def __init__(self, folder: Path, *, clock_unix_s: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock_unix_s = clock_unix_s
        self.name = kept.load(folder).name

    def dial(self, target: str) -> grpc.aio.Channel:
        """A channel to HOST:PORT on which both ends prove who they are. Connects when first used."""
        identity = kept.load(self._folder)
        credentials = grpc.ssl_channel_credentials(identity.authority_pem, identity.key_pem, identity.certificate_pem)
        return grpc.aio.secure_channel(target, credentials, options=OPTIONS)

    async def trouble(self, target: str) -> Trouble | None:
        """Why TLS with HOST:PORT fails; None where it does not, or nobody answers there."""
        return await asyncio.to_thread(self._trouble, place_of(target))

    def _trouble(self, place: Place) -> Trouble | None:
        identity = kept.load(self._folder)
        found = diagnose(
            place,
            Shown(identity.authority_pem, self._folder / kept.NODE_FILE),
            clock_unix_s=self._clock_unix_s,
        )
        expired = self._clock_unix_s() >= keys.validity(identity.certificate_pem).until_unix_s
        # Where the gateway hangs up too; else it is the clock of this machine that is wrong.
        if expired and (found is None or found.cause in (Cause.OTHER, Cause.REFUSED)):
            return Trouble(Cause.OWN_EXPIRED, own_expired_text())
        return found

    # ---- renewal

    async def keep_fresh(self, target: str, then: Callable[[], Awaitable[None]]) -> None:
        """Renew the certificate whenever two thirds of its life are over, until cancelled; `then` follows each time."""
        while True:
            pause_s = await self.refresh(target)
            if pause_s == 0.0:
                await then()
            await asyncio.sleep(pause_s)

    async def refresh(self, target: str) -> float:
        """Renew the certificate if it is time; returns the seconds until the next look, 0 after a renewal."""
        try:
            identity = kept.load(self._folder)
            left_s = keys.validity(identity.certificate_pem).renew_unix_s() - self._clock_unix_s()
            if left_s > 0:
                # The wall clock may be set meanwhile, so it is looked at more often than that.
                return min(left_s, LOOK_S)
            await self._renew(identity, target)
        except (RenewalFailed, IdentityProblem, OSError) as failed:
            log.warning("certificate not renewed", why=str(failed))
            return LOOK_S
        return 0.0

    async def _renew(self, identity: kept.NodeIdentity, target: str) -> None:
        key_pem = keys.new_key()
        channel = self.dial(target)
        try:
            certificate_pem = await renew(channel, keys.request_for(identity.name, key_pem))
        finally:
            await channel.close(grace=None)
        if not keys.belong_together(certificate_pem, key_pem):
            raise RenewalFailed("INVALID_CERTIFICATE")
        renewed = replace(identity, certificate_pem=certificate_pem, key_pem=key_pem)
        await asyncio.to_thread(kept.save, self._folder, renewed)
        log.info("certificate renewed", until_unix_s=keys.validity(certificate_pem).until_unix_s)
