"""A real gateway inside the test's own event loop, on free ports, with plans made in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from edgewise.v1 import admin_pb2_grpc, gateway_pb2_grpc
from orchestrator.config import GatewayConfig, Ledger, Nodes
from orchestrator.gateway.app import Gateway, build, listening
from tests.fakes.node import OPTIONS, FakeNode
from tests.fakes.ports import free_address

TIMEOUT_S = 5.0
FAST = Nodes(heartbeat_s=0.1, lease_s=5.0)


def planning_thread() -> Executor:
    """Plans without a process of their own: quick to start."""
    return ThreadPoolExecutor(max_workers=1)


@dataclass
class Live:
    """A gateway that listens, and a connection to it."""

    gateway: Gateway
    address: str
    channel: grpc.aio.Channel
    http: str

    @property
    def stub(self) -> gateway_pb2_grpc.GatewayStub:
        return gateway_pb2_grpc.GatewayStub(self.channel)

    @property
    def admin(self) -> admin_pb2_grpc.AdminStub:
        return admin_pb2_grpc.AdminStub(self.channel)

    def node(self, **fields: Any) -> FakeNode:
        """A node for this gateway, not joined yet."""
        return FakeNode(self.address, **fields)


@asynccontextmanager
async def live_gateway(
    state_dir: Path, *, executor: Callable[[], Executor] = planning_thread, **sections: Any
) -> AsyncIterator[Live]:
    """A gateway as configured by `sections` of `GatewayConfig`; it ends with the block."""
    anywhere = {"listen": "127.0.0.1:0", "http_listen": free_address()}
    fields: dict[str, Any] = anywhere | {"nodes": FAST, "ledger": Ledger(store="memory")} | sections
    config = GatewayConfig(state_dir=state_dir, **fields)
    gateway = build(config, executor=executor)
    async with listening(gateway) as address, grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        yield Live(gateway, address, channel, f"http://{config.http_listen}")


async def until(condition: Callable[[], object], *, timeout_s: float = TIMEOUT_S) -> None:
    """Wait until something holds that nothing announces; checked between turns of the event loop."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
