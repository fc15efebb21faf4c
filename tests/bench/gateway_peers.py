"""The peers of the gateway benchmark, each a process of its own: a bare unary server in front of an engine child of the
same kind, and a bare unary echo. Run as ``python -m tests.bench.gateway_peers engine|echo``; prints its port."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import grpc
import numpy as np

from edgewise.v1 import gateway_pb2, gateway_pb2_grpc
from nodes.agent.agent import build_parts
from nodes.config import parse_config
from nodes.engines.contract import Engine, Job
from orchestrator.wire import decode_tensor, encode_tensor

EXPERT = "digits-lenet5"


class EngineServicer(gateway_pb2_grpc.GatewayServicer):
    """Decodes the tensor, runs the model in the child, encodes the answer; nothing else."""

    def __init__(self, engine: Engine, arm: str) -> None:
        self._engine = engine
        self._arm = arm

    async def Infer(self, request: gateway_pb2.InferRequest, context: Any) -> gateway_pb2.InferResponse:
        array = decode_tensor(request.inputs[0], "inputs[0]")
        result = await self._engine.infer(Job(self._arm, {request.inputs[0].name: array}))
        outputs = [encode_tensor(name, np.asarray(output)) for name, output in result.outputs.items()]
        return gateway_pb2.InferResponse(request_id=request.request_id, outputs=outputs)


class EchoServicer(gateway_pb2_grpc.GatewayServicer):
    """Answers at once."""

    async def Infer(self, request: gateway_pb2.InferRequest, context: Any) -> gateway_pb2.InferResponse:
        return gateway_pb2.InferResponse(request_id=request.request_id, outputs=request.inputs)


async def serve(kind: str) -> None:
    """Listen on a free port, say which, serve until SIGTERM."""
    engine: Engine | None = None
    servicer: gateway_pb2_grpc.GatewayServicer = EchoServicer()
    if kind == "engine":
        parts = build_parts(parse_config({"gateway": "127.0.0.1:1", "experts": (EXPERT,)}))
        engine = parts.engine
        await engine.load(parts.inventory.arms)
        servicer = EngineServicer(engine, parts.inventory.arms[0].key)
    server = grpc.aio.server()
    gateway_pb2_grpc.add_GatewayServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(0)
    if engine is not None:
        await engine.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
