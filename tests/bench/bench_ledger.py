"""What the ledger costs: gateways without one, with one that is written behind, and with a budget that is kept.

The same gateway three times, each with an agent of its own, in turns in one run; and the same bare server as in the
gateway's benchmark. ``off`` keeps its books in memory. ``default`` is a gateway as it comes: settlements are written
behind. ``kept`` has a budget: what a request may take is held before it runs, and its reply waits until its settlement
is on the disk. That is what ``kept`` waits for, so commits of the store alone are timed as well: on the same disk, in
turns with the gateways because disks have moods, each of the rows that a gateway writes for one request, and as far
apart as one caller's requests are, since a commit that follows another at once finds warm caches and is quicker.
Cores are kept awake where the machine lets us, see `tests.bench.harness.cores_awake`.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import psutil

from edgewise.v1 import gateway_pb2_grpc
from orchestrator.client import Client
from orchestrator.client.types import Quota
from orchestrator.store.records import DAY_J, FLEET, Meter, Posting, Settlement
from orchestrator.store.service import transact
from orchestrator.store.sqlite import SqliteDesk
from tests.bench.bench_gateway import CALLERS, CALLS_EACH, block_ms, edgewise, process_of, request_of, throughput
from tests.bench.harness import Bar, Row, cores_awake, main, spread

BARS = (
    Bar("ledger_cpu_fraction", 0.10, "<="),
    Bar("added_p50_beyond_commit_ms", 1.0, "<="),
)
# A process may be a third slower than another of the same command for as long as it lives: each is started so often,
# and has so many blocks in each life.
LIVES, BLOCKS = 5, 4
COMMITS = 100
COMMIT_EVERY_S = 0.002
BUDGET_J = 1e6
OFF = {"EDGEWISE_LEDGER__STORE": "memory"}
KINDS = {"off": OFF, "default": {}, "kept": {}}


@dataclass(frozen=True)
class Peer:
    """A server: its stub and the process whose CPU is counted."""

    stub: gateway_pb2_grpc.GatewayAsyncStub
    process: psutil.Process

    def cpu_s(self) -> float:
        """CPU seconds so far, of all its threads."""
        return sum(self.process.cpu_times()[:2])


@contextlib.asynccontextmanager
async def _peers() -> AsyncIterator[dict[str, Peer]]:
    with contextlib.ExitStack() as stack:
        found: dict[str, tuple[str, int]] = {}
        for kind, environment in KINDS.items():
            address, pids = stack.enter_context(edgewise(environment))
            found[kind] = (address, pids[0])
        with Client(found["kept"][0]) as client:
            client.set_quota(FLEET, Quota(day_j=BUDGET_J))
        bare = stack.enter_context(process_of("-m", "tests.bench.gateway_peers", "engine"))
        line = bare.stdout.readline() if bare.stdout else ""
        found["engine"] = (f"127.0.0.1:{int(line)}", bare.pid)
        async with contextlib.AsyncExitStack() as channels:
            peers = {}
            for name, (target, pid) in found.items():
                channel = await channels.enter_async_context(grpc.aio.insecure_channel(target))
                peers[name] = Peer(gateway_pb2_grpc.GatewayStub(channel), psutil.Process(pid))
            yield peers


@contextlib.contextmanager
def commits() -> Iterator[Callable[[], float]]:
    """The store alone; gives what times a block of commits, each of one settlement that ends a hold: median ms."""
    meter = Meter(FLEET, DAY_J, 1)
    row = Settlement(1.0, "r" * 32, "", "", "digits", "answered", "x:y@z", 1e-6, "modelled", 2e-6, 0)
    posting = Posting("bench", {meter: 1e-6}, {meter: 1e-6}, row)
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(SqliteDesk(Path(folder) / "ledger.db")) as desk:
        transact(desk, [lambda d: d.reserve("bench", {meter: 1.0})])

        def block_ms() -> float:
            times = []
            for _ in range(COMMITS):
                time.sleep(COMMIT_EVERY_S)
                started_s = time.perf_counter()
                transact(desk, [lambda d: d.settle(posting)])
                times.append((time.perf_counter() - started_s) * 1e3)
            return float(np.median(times))

        yield block_ms


Blocks = dict[str, list[float]]


async def _measure() -> list[Row]:
    names = [*KINDS, "engine"]
    times: Blocks = {name: [] for name in (*names, "commit")}
    cpu: Blocks = {name: [] for name in names}
    rate: Blocks = {name: [] for name in names}
    for _ in range(LIVES):
        async with _peers() as peers:
            await _one_life(peers, times, cpu, rate)
    return _rows(times, cpu, rate)


async def _one_life(peers: dict[str, Peer], times: Blocks, cpu: Blocks, rate: Blocks) -> None:
    request = request_of()
    for peer in peers.values():
        await block_ms(peer.stub, request)
        await throughput(peer.stub, request)
    with commits() as commit_ms, cores_awake():
        commit_ms()
        for _ in range(BLOCKS):
            for name, peer in peers.items():
                times[name].append(await block_ms(peer.stub, request))
            times["commit"].append(commit_ms())
        for _ in range(BLOCKS):
            for name, peer in peers.items():
                before_s = peer.cpu_s()
                rate[name].append(await throughput(peer.stub, request))
                cpu[name].append((peer.cpu_s() - before_s) / (CALLERS * CALLS_EACH) * 1e3)


def _rows(times: Blocks, cpu: Blocks, rate: Blocks) -> list[Row]:
    sizes: dict[str, object] = {"lives": LIVES, "blocks": BLOCKS, "callers": CALLERS, "commits": COMMITS}
    commits = times.pop("commit")
    turns = zip(times["kept"], times["engine"], commits, strict=True)
    added = [kept - bare - commit for kept, bare, commit in turns]
    share = [(mine - off) / off for mine, off in zip(cpu["kept"], cpu["off"], strict=True)]
    behind = [(mine - off) / off for mine, off in zip(cpu["default"], cpu["off"], strict=True)]
    rows = []
    for metric, values, unit in (
        ("ledger_cpu_fraction", share, "ratio"),
        ("ledger_cpu_fraction_default", behind, "ratio"),
        ("added_p50_beyond_commit_ms", added, "ms"),
        ("commit_p50_ms", commits, "ms"),
        *((f"p50_ms_{name}", values, "ms") for name, values in times.items()),
        *((f"throughput_{name}", values, "1/s") for name, values in rate.items()),
        *((f"gateway_cpu_ms_per_request_{name}", values, "ms") for name, values in cpu.items()),
    ):
        low, middle, high = spread(values)
        rows.append(Row(metric, middle, unit, {**sizes, "quartiles": [low, high]}))
    return rows


def run() -> list[Row]:
    """All rows."""
    return asyncio.run(_measure())


if __name__ == "__main__":
    main(stem="ledger", run=run, bars=BARS)
