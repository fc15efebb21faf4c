"""The peers of the gateway benchmark, each a process of its own: a bare unary server in front of an engine child of the
same kind, and a bare unary echo. Run as ``python -m tests.bench.gateway_peers engine|echo``; prints its port."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import numpy as np

from edgewise.v1 import gateway_pb2
from nodes.agent.parts import build_parts
from nodes.config import parse_config
from nodes.engines.contract import Engine, Job
from orchestrator.wire import decode_tensor, encode_tensor

EXPERT = "digits-lenet5"


Infer = Callable[[gateway_pb2.InferRequest, Any], Awaitable[gateway_pb2.InferResponse]]


def engine_call(engine: Engine, arm: str) -> Infer:
    """Decodes the tensor, runs the model in the child, encodes the answer; nothing else."""

    async def infer(request: gateway_pb2.InferRequest, context: Any) -> gateway_pb2.InferResponse:
        array = decode_tensor(request.inputs[0], "inputs[0]")
        result = await engine.infer(Job(arm, {request.inputs[0].name: array}))
        outputs = [encode_tensor(name, np.asarray(output)) for name, output in result.outputs.items()]
        return gateway_pb2.InferResponse(request_id=request.request_id, outputs=outputs)

    return infer


async def bare_engine() -> tuple[Engine, str]:
    """An engine child with the expert loaded, and the expert's arm."""
    parts = build_parts(parse_config({"gateway": "127.0.0.1:1", "experts": (EXPERT,)}))
    await parts.engine.load(parts.inventory.arms)
    return parts.engine, parts.inventory.arms[0].key


async def echo(request: gateway_pb2.InferRequest, context: Any) -> gateway_pb2.InferResponse:
    """Answers at once."""
    return gateway_pb2.InferResponse(request_id=request.request_id, outputs=request.inputs)


async def serve(kind: str) -> None:
    """Listen on a free port, say which, serve until SIGTERM."""
    engine: Engine | None = None
    infer: Infer = echo
    if kind == "engine":
        engine, arm = await bare_engine()
        infer = engine_call(engine, arm)
    handler = grpc.unary_unary_rpc_method_handler(
        infer,
        request_deserializer=gateway_pb2.InferRequest.FromString,
        response_serializer=gateway_pb2.InferResponse.SerializeToString,
    )
    server = grpc.aio.server()
    generic = grpc.method_handlers_generic_handler("edgewise.v1.Gateway", {"Infer": handler})
    server.add_generic_rpc_handlers((generic,))
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
