"""Puts together what a gateway with TLS needs, and the credentials of its ports."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc
import structlog

from orchestrator.config import GatewayConfig, split_address
from orchestrator.fleet.fleet import Fleet, Refusal
from orchestrator.fleet.session import NodeSession
from orchestrator.identity.addresses import WILDCARDS, own_names
from orchestrator.identity.authority import Authority
from orchestrator.identity.book import Book, write_private
from orchestrator.identity.errors import IdentityError
from orchestrator.identity.handshakes import Handshakes
from orchestrator.identity.limiter import Limiter
from orchestrator.identity.registrar import Registrar
from orchestrator.identity.sentry import Sentry

T = TypeVar("T")

log = structlog.get_logger("identity")

# How soon a gateway knows whom another one has taken in or put out.
FOLLOW_S = 1.0
# What a connection says by itself, whatever the book says.
BY_ITSELF = frozenset({"IDENTITY_REQUIRED", "IDENTITY_MISMATCH", "IDENTITY_EXPIRED"})
FOLDER = "identity"
BOOK_FILE, SERVER_KEY_FILE, SERVER_FILE = "identity.json", "server.key", "server.pem"


@dataclass
class Identity:
    """A gateway's side of TLS.

    Attributes:
        key_pem: Of the server certificate.
        chain_pem: The server certificate and the authority's.
        nodes_listening: Where nodes connect: host ("" for the one by which they joined) and port.
    """

    registrar: Registrar
    sentry: Sentry
    folder: Path
    key_pem: bytes
    chain_pem: bytes
    limiter: Limiter = field(default_factory=lambda: Limiter(time.monotonic))
    nodes_listening: tuple[str, int] = ("", 0)
    handshakes: Handshakes = field(default_factory=Handshakes)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def act(self, work: Callable[[], T]) -> T:
        """Have the registrar do something, one thing at a time; beside the event loop where a database is waited for.

        Raises:
            IdentityError: See the registrar.
        """
        async with self._turn:
            return await asyncio.to_thread(work) if self.registrar.shared else work()

    async def refusal(self, context: Any, claimed: str) -> Refusal | None:
        """Why a connection may not speak for the node that it claims to be; None where it may.

        Another gateway may have taken the node in, or renewed its certificate, since the book was read last: nobody is
        turned away by what was read then.
        """
        found = self.sentry.refusal(context, claimed)
        if found is None or found.reason in BY_ITSELF or not self.registrar.shared:
            return found
        with suppress(IdentityError):
            await self.act(self.registrar.refresh)
        return self.sentry.refusal(context, claimed)

    def watch(self, context: Any, session: NodeSession) -> None:
        """Keep an eye on a session that has begun."""
        self.sentry.watch(context, session)

    async def follow(self) -> None:
        """Keep up with what other gateways change, until cancelled; while the store is away what is known holds."""
        known = True
        while self.registrar.shared:
            await asyncio.sleep(FOLLOW_S)
            try:
                await self.act(self.registrar.refresh)
                known = True
            except IdentityError as error:
                if known:
                    log.warning("identity.not_followed", reason=error.reason, why=error.message)
                known = False

    def for_http(self) -> ssl.SSLContext:
        """The same for HTTPS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self.folder / SERVER_FILE, self.folder / SERVER_KEY_FILE)
        self.handshakes.count_https(context)
        return context

    def for_clients(self) -> grpc.ServerCredentials:
        """TLS that proves who the gateway is; clients show keys."""
        return grpc.ssl_server_credentials([(self.key_pem, self.chain_pem)])

    def for_nodes(self) -> grpc.ServerCredentials:
        """TLS that proves both ends."""
        authority = self.registrar.authority.pem
        return grpc.ssl_server_credentials(
            [(self.key_pem, self.chain_pem)], root_certificates=authority, require_client_auth=True
        )

    def listens(self, config: GatewayConfig, port: int) -> None:
        """Remember where nodes connect."""
        host, _ = split_address(config.nodes_address)
        self.nodes_listening = ("" if host in WILDCARDS else host, port)


def open_identity(config: GatewayConfig, fleet: Fleet) -> Identity:
    """Read the authority, or make it, and make a certificate for this run. Blocks: files are read and written.

    Raises:
        IdentityError: STORE_CORRUPT, STORE_UNSAFE, AUTHORITY_DIFFERS or IDENTITY_STORE_FAILED.
    """
    folder = config.state_dir / FOLDER
    authority = Authority(folder, clock_unix_s=time.time)
    registrar = Registrar(
        authority,
        _open_book(config, authority.fingerprint, folder / BOOK_FILE),
        manual=config.nodes.approval == "manual",
        clock_unix_s=time.time,
        random=os.urandom,
    )
    names = own_names(config.tls.san, (config.listen, config.http_listen, config.nodes_address))
    key_pem, chain_pem = authority.issue_server(names)
    write_private(folder / SERVER_KEY_FILE, key_pem)
    write_private(folder / SERVER_FILE, chain_pem)
    sentry = Sentry(registrar, fleet, clock_s=time.monotonic, clock_unix_s=time.time)
    return Identity(registrar, sentry, folder, key_pem, chain_pem)


def _open_book(config: GatewayConfig, authority: str, file: Path) -> Book:
    if config.ledger.store != "postgres":
        return Book(file)
    # An extra: only who asks for it needs it.
    from orchestrator.identity.shared_book import SharedBook

    return SharedBook(config.ledger.postgres or "", authority, file)
