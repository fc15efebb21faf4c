"""A gateway for tests: a real grpc.aio server whose side of the stream a test plays by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import numpy as np

from edgewise.v1 import common_pb2 as common
from edgewise.v1 import fleet_pb2 as fleet
from edgewise.v1 import fleet_pb2_grpc as fleet_grpc

TIMEOUT_S = 5.0
SERVER_OPTIONS = (
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.so_reuseport", 0),
)


class PlayedSession:
    """One node's stream, seen from the gateway."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[tuple[fleet.FromNode, str, Any]] = asyncio.Queue()
        self.outgoing: asyncio.Queue[fleet.ToNode | None] = asyncio.Queue()
        self.half_closed = asyncio.Event()
        self.epoch = 0
        self.sequence = 0

    async def next(self, *kinds: str) -> Any:
        """The next event of one of these kinds; others are skipped."""
        return (await self.next_with_message(*kinds))[1]

    async def next_with_message(self, *kinds: str) -> tuple[fleet.FromNode, Any]:
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                message, kind, event = await self.incoming.get()
                if kind in kinds:
                    return message, event

    def send(self, *commands: fleet.NodeCommand, epoch: int | None = None, sequence: int | None = None) -> None:
        if sequence is None:
            self.sequence += 1
            sequence = self.sequence
        message = fleet.ToNode(epoch=self.epoch if epoch is None else epoch, sequence=sequence, commands=commands)
        self.outgoing.put_nowait(message)

    def welcome(
        self,
        epoch: int = 7,
        *,
        wanted: Sequence[str] = (),
        heartbeat_s: float = 0.05,
        gateways: Sequence[str] = (),
        spread_s: float = 0.0,
    ) -> None:
        self.epoch = epoch
        self.send(
            fleet.NodeCommand(
                welcome=fleet.Welcome(
                    epoch=epoch,
                    heartbeat_s=heartbeat_s,
                    lease_s=6.0,
                    wanted_digests=wanted,
                    gateway_version="test",
                    gateways=gateways,
                    spread_s=spread_s,
                )
            )
        )

    def end(self) -> None:
        """Close the stream from the gateway's side."""
        self.outgoing.put_nowait(None)


class PlayedGateway(fleet_grpc.FleetServicer):
    """Accepts streams and hands each to the test."""

    def __init__(self) -> None:
        self.sessions: asyncio.Queue[PlayedSession] = asyncio.Queue()
        self.port = 0
        self._server: grpc.aio.Server | None = None

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self, port: int = 0) -> None:
        server = grpc.aio.server(options=SERVER_OPTIONS)
        fleet_grpc.add_FleetServicer_to_server(self, server)
        self.port = server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        self._server = server

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(grace=0)

    async def session(self, *, timeout_s: float = TIMEOUT_S) -> PlayedSession:
        """The next stream that a node opens."""
        async with asyncio.timeout(timeout_s):
            return await self.sessions.get()

    async def Connect(
        self, request_iterator: AsyncIterator[fleet.FromNode], context: Any
    ) -> AsyncIterator[fleet.ToNode]:
        session = PlayedSession()
        self.sessions.put_nowait(session)
        reader = asyncio.create_task(self._read(request_iterator, session))
        try:
            while (message := await session.outgoing.get()) is not None:
                yield message
        finally:
            reader.cancel()

    async def _read(self, requests: AsyncIterator[fleet.FromNode], session: PlayedSession) -> None:
        async for message in requests:
            for event in message.events:
                kind = event.WhichOneof("event") or "unknown"
                session.incoming.put_nowait((message, kind, getattr(event, kind, None)))
        session.half_closed.set()


def tensor_work(
    work_id: int, image: np.ndarray, *, expert: str = "tiny", deadline_ms: float = 5000.0, **changes: Any
) -> fleet.NodeCommand:
    """Work for an expert of the tests' inventory; `changes` replace fields of the tensor."""
    fields = {
        "name": "image",
        "dtype": common.DTYPE_FLOAT32,
        "shape": image.shape,
        "data": image.tobytes(),
        **changes,
    }
    return fleet.NodeCommand(
        work=fleet.Work(
            work_id=work_id,
            request_id=f"r{work_id}",
            expert=expert,
            variant="onnx-fp32",
            deadline_ms=deadline_ms,
            tensors=fleet.TensorWork(inputs=[common.Tensor(**fields)]),
        )
    )


def text_work(work_id: int, prompt: str, *, max_tokens: int = 0) -> fleet.NodeCommand:
    """Work for the fake text expert."""
    return fleet.NodeCommand(
        work=fleet.Work(
            work_id=work_id,
            expert="speaker",
            variant="fake",
            deadline_ms=5000.0,
            text=fleet.TextWork(
                messages=[common.ChatMessage(role="user", content=prompt)],
                parameters=common.GenerationParameters(max_tokens=max_tokens),
            ),
        )
    )


def cancel(work_id: int) -> fleet.NodeCommand:
    return fleet.NodeCommand(cancel=fleet.Cancel(work_id=work_id))


def drain(reason: str) -> fleet.NodeCommand:
    return fleet.NodeCommand(drain=fleet.Drain(reason=reason))


def rejected(reason: str, *, retryable: bool) -> fleet.NodeCommand:
    return fleet.NodeCommand(rejected=fleet.Rejected(reason=reason, message="not you", retryable=retryable))
