"""A gateway with TLS inside the test's own event loop, and nodes that join it as real ones do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from edgewise.v1 import identity_pb2_grpc
from nodes.identity.folder import NodeIdentity
from nodes.identity.https import parse_place
from nodes.identity.join import Joining
from nodes.identity.token import parse_token
from orchestrator.config import GatewayConfig, Ledger, Tls
from orchestrator.gateway.app import build, listening
from orchestrator.identity.line import join_url
from orchestrator.identity.opening import Identity
from tests.fakes.live import FAST, Live, planning_thread
from tests.fakes.node import OPTIONS, FakeNode
from tests.fakes.ports import free_address


@dataclass
class Secure(Live):
    """A gateway with TLS, and a client's connection to it."""

    folder: Path

    @property
    def identity(self) -> Identity:
        assert self.gateway.identity is not None
        return self.gateway.identity

    @property
    def identities(self) -> Any:
        return identity_pb2_grpc.IdentityStub(self.channel)

    @property
    def ca(self) -> bytes:
        return self.identity.registrar.authority.pem

    @property
    def url(self) -> str:
        return join_url(self.gateway.config)

    @property
    def nodes_port(self) -> str:
        return f"127.0.0.1:{self.identity.nodes_listening[1]}"

    def token(self, node: str = "", ttl_s: float = 900.0) -> str:
        return self.identity.registrar.create_token(node, ttl_s)[1]

    async def join(self, name: str = "fake-1", token: str | None = None, **fields: Any) -> NodeIdentity:
        """Join over HTTPS as a node does."""
        said: list[str] = []
        joining = Joining(
            parse_place(self.url),
            parse_token(token or self.token()),
            name,
            self.folder / "nodes" / name,
            said.append,
            **fields,
        )
        return await asyncio.to_thread(joining.run)

    def channel_of(self, identity: NodeIdentity, target: str | None = None) -> grpc.aio.Channel:
        """A node's connection to its port."""
        credentials = grpc.ssl_channel_credentials(identity.authority_pem, identity.key_pem, identity.certificate_pem)
        return grpc.aio.secure_channel(target or self.nodes_port, credentials, options=OPTIONS)

    def secure_node(self, identity: NodeIdentity, **fields: Any) -> FakeNode:
        """A node with this identity, not connected yet."""
        known: dict[str, Any] = {"name": identity.name, "channel": self.channel_of(identity)}
        return FakeNode(self.nodes_port, **(known | fields))


@asynccontextmanager
async def secure_gateway(state_dir: Path, **sections: Any) -> AsyncIterator[Secure]:
    """A gateway with TLS on free ports of the loopback address; it ends with the block."""
    fields: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "http_listen": free_address(),
        "nodes_listen": "127.0.0.1:0",
        "tls": Tls(mode="on"),
        "nodes": FAST,
        "ledger": Ledger(store="memory"),
    }
    gateway = build(GatewayConfig(state_dir=state_dir, **(fields | sections)), executor=planning_thread)
    assert gateway.identity is not None
    credentials = grpc.ssl_channel_credentials(gateway.identity.registrar.authority.pem)
    async with (
        listening(gateway) as address,
        grpc.aio.secure_channel(address, credentials, options=OPTIONS) as channel,
    ):
        yield Secure(gateway, address, channel, join_url(gateway.config), folder=state_dir)
