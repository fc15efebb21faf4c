"""What the gateway adds: time at one caller, throughput at 32 callers, the route decision, CPU per request.

Everything runs on one machine, so the callers share its cores with what they call; baseline and candidate take turns
in one run and only differences and ratios between them are judged. The baseline is a bare grpc.aio unary server in
front of an engine child of the same kind, running the same expert on the same tensor. Beside it runs a relay that only
forwards bytes over a node's outbound stream: what the shape costs with nothing decided, on this machine at this moment.

While they are timed the cores are kept from going to sleep, where this machine lets us; what is added where they do
sleep is timed as well, in rows of its own (``_cores_asleep``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import grpc
import numpy as np
import psutil

from edgewise.v1 import common_pb2, gateway_pb2, gateway_pb2_grpc
from orchestrator.client import Client
from tests.bench.gateway_peers import EXPERT
from tests.bench.harness import Bar, Row, cores_awake, main, spread
from tests.bench.route_decision import route_us
from tests.fakes.ports import free_address

BARS = (
    Bar("added_p50_ms", 1.0, "<="),
    Bar("throughput_vs_echo", 0.3, ">="),
    Bar("route_20_arms_us", 100.0, "<="),
)
BLOCKS = 12
CALLS = 100
CALLERS = 32
CALLS_EACH = 25
START_S = 120.0

PYTHON = sys.executable


@dataclass(frozen=True)
class Peer:
    """A server under test: its stub and the processes that work for it."""

    name: str
    stub: gateway_pb2_grpc.GatewayAsyncStub
    processes: tuple[psutil.Process, ...]

    def cpu_s(self) -> float:
        """CPU seconds of its processes so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes)


@contextlib.contextmanager
def process_of(*command: str, environment: Mapping[str, str] = MappingProxyType({})) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [PYTHON, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()


@contextlib.contextmanager
def edgewise(environment: Mapping[str, str] = MappingProxyType({})) -> Iterator[tuple[str, tuple[int, int]]]:
    """A gateway and one agent; yields the address and the process ids of both."""
    address = free_address()
    with tempfile.TemporaryDirectory() as state, contextlib.ExitStack() as stack:
        arguments = ["--listen", address, "--http-listen", free_address(), "--state-dir", state]
        code = "from orchestrator.cli.main import main; main()"
        gateway = stack.enter_context(
            process_of("-c", code, "gateway", *arguments, "--log-level", "info", environment=environment)
        )
        node = ["--gateway", address, "--name", "bench", "--profile", "laptop-cpu"]
        agent = stack.enter_context(process_of("-m", "nodes", "run", *node))
        _wait_until_planned(address)
        yield address, (gateway.pid, agent.pid)


def _wait_until_planned(address: str) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(Exception), Client(address, timeout_s=1.0) as client:
            if any(task.certificate.status == "optimal" for task in client.status().tasks):
                return
        time.sleep(0.2)
    raise SystemExit("the gateway did not become ready")


def family(*pids: int) -> tuple[psutil.Process, ...]:
    parents = [psutil.Process(pid) for pid in pids]
    return tuple(process for parent in parents for process in (parent, *parent.children(recursive=True)))


def request_of() -> gateway_pb2.InferRequest:
    image = np.random.default_rng(0).random((1, 8, 8), dtype=np.float32)
    tensor = common_pb2.Tensor(name="image", dtype=common_pb2.DTYPE_FLOAT32, shape=image.shape, data=image.tobytes())
    return gateway_pb2.InferRequest(task="digits", expert=EXPERT, inputs=[tensor])


async def block_ms(stub: gateway_pb2_grpc.GatewayAsyncStub, request: gateway_pb2.InferRequest) -> float:
    times = []
    for _ in range(CALLS):
        started_s = time.perf_counter()
        await stub.Infer(request, timeout=10)
        times.append(time.perf_counter() - started_s)
    return float(np.median(times)) * 1e3


async def throughput(stub: gateway_pb2_grpc.GatewayAsyncStub, request: gateway_pb2.InferRequest) -> float:
    async def caller() -> None:
        for _ in range(CALLS_EACH):
            await stub.Infer(request, timeout=30)

    started_s = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return CALLERS * CALLS_EACH / (time.perf_counter() - started_s)


@contextlib.contextmanager
def _relay() -> Iterator[tuple[str, tuple[int, ...]]]:
    """A relay and its node; yields its address and both pids."""
    with contextlib.ExitStack() as stack:
        relay = stack.enter_context(process_of("-m", "tests.bench.gateway_relay", "gateway"))
        assert relay.stdout is not None
        port = int(relay.stdout.readline())
        node = stack.enter_context(process_of("-m", "tests.bench.gateway_relay", "node", str(port)))
        assert relay.stdout.readline() == "joined\n"
        yield f"127.0.0.1:{port}", (relay.pid, node.pid)


@contextlib.asynccontextmanager
async def _peers() -> AsyncIterator[dict[str, Peer]]:
    with contextlib.ExitStack() as stack:
        address, pids = stack.enter_context(edgewise())
        found: dict[str, tuple[str, tuple[int, ...]]] = {"edgewise": (address, pids)}
        for kind in ("engine", "echo"):
            process = stack.enter_context(process_of("-m", "tests.bench.gateway_peers", kind))
            line = process.stdout.readline() if process.stdout else ""
            found[kind] = (f"127.0.0.1:{int(line)}", (process.pid,))
        found["relay"] = stack.enter_context(_relay())
        async with contextlib.AsyncExitStack() as channels:
            peers = {}
            for name, (target, ids) in found.items():
                channel = await channels.enter_async_context(grpc.aio.insecure_channel(target))
                peers[name] = Peer(name, gateway_pb2_grpc.GatewayStub(channel), family(*ids))
            yield peers


async def _check(peers: dict[str, Peer], request: gateway_pb2.InferRequest) -> None:
    """Correctness before timing: the gateway's answer is the bare server's answer."""
    replies = [await peers[name].stub.Infer(request, timeout=10) for name in ("engine", "edgewise", "relay")]
    bare, *others = (np.frombuffer(reply.outputs[0].data, np.float32) for reply in replies)
    for other in others:
        np.testing.assert_allclose(other, bare, atol=1e-6)


async def _one_caller(peers: dict[str, Peer], request: gateway_pb2.InferRequest) -> dict[str, list[float]]:
    """Median milliseconds of each block of calls, the peers in turns."""
    times: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(BLOCKS):
        for name, peer in peers.items():
            times[name].append(await block_ms(peer.stub, request))
    return times


async def _many_callers(
    peers: dict[str, Peer], request: gateway_pb2.InferRequest
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Calls per second, and CPU milliseconds of a call, of each block."""
    many: dict[str, list[float]] = {name: [] for name in peers}
    cpu: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(BLOCKS // 2):
        for name, peer in peers.items():
            before_s = peer.cpu_s()
            many[name].append(await throughput(peer.stub, request))
            cpu[name].append((peer.cpu_s() - before_s) / (CALLERS * CALLS_EACH) * 1e3)
    return many, cpu


async def _measure() -> list[Row]:
    request = request_of()
    async with _peers() as peers:
        await _check(peers, request)
        for peer in peers.values():
            await block_ms(peer.stub, request)
            await throughput(peer.stub, request)
        with cores_awake() as awake:
            times = await _one_caller(peers, request)
            many, cpu = await _many_callers(peers, request)
        asleep = await _one_caller(peers, request) if awake else {}
    sizes: dict[str, object] = {"expert": EXPERT, "blocks": BLOCKS, "calls": CALLS, "callers": CALLERS}
    return [
        *_latency_rows(times, {**sizes, "cores": "awake" if awake else "as they are"}),
        *_latency_rows(asleep, {**sizes, "cores": "as they are"}, suffix="_cores_asleep"),
        *_throughput_rows(many, cpu, sizes),
    ]


def _latency_rows(times: dict[str, list[float]], sizes: dict[str, object], *, suffix: str = "") -> list[Row]:
    if not times:
        return []
    added = [mine - bare for mine, bare in zip(times["edgewise"], times["engine"], strict=True)]
    relayed = [relay - bare for relay, bare in zip(times["relay"], times["engine"], strict=True)]
    beyond = [mine / relay for mine, relay in zip(added, relayed, strict=True)]
    found = [
        ("added_p50_ms", added, "ms"),
        ("relay_added_p50_ms", relayed, "ms"),
        ("added_p50_vs_relay", beyond, "ratio"),
    ]
    found += [(f"p50_ms_{name}", values, "ms") for name, values in times.items()]
    return [_row(metric + suffix, values, unit, sizes) for metric, values, unit in found]


def _throughput_rows(many: dict[str, list[float]], cpu: dict[str, list[float]], sizes: dict[str, object]) -> list[Row]:
    ratio = [mine / echo for mine, echo in zip(many["edgewise"], many["echo"], strict=True)]
    found = [("throughput_vs_echo", ratio, "ratio")]
    found += [(f"throughput_{name}", values, "1/s") for name, values in many.items()]
    found += [(f"cpu_ms_per_request_{name}", values, "ms") for name, values in cpu.items()]
    return [_row(metric, values, unit, sizes) for metric, values, unit in found]


def _row(metric: str, values: list[float], unit: str, sizes: dict[str, object]) -> Row:
    low, middle, high = spread(values)
    return Row(metric, middle, unit, {**sizes, "quartiles": [low, high]})


def run() -> list[Row]:
    """All rows."""
    low, middle, high = spread(route_us(arms=20))
    decision = Row("route_20_arms_us", middle, "us", {"arms": 20, "quartiles": [low, high]})
    return [*asyncio.run(_measure()), decision]


if __name__ == "__main__":
    main(stem="gateway", run=run, bars=BARS)
