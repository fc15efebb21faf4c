"""Many nodes join one gateway at once: ``python -m tests.faults.join_storm`` (part of ``make faults``).

200 agents in four processes, in this order:

1. *Storms*: 50 of them serve a steady load for one expert. The other 150, which offer another expert of the same task,
   connect in the same moment; then they break off, and again. Compared are the latencies of the load before each storm
   and while the nodes join: what the storm does to requests that none of the new nodes answers.
2. *Rest*: all 200 are connected and nobody asks anything: what the gateway's process takes of a core, and its memory.
3. *Cold restart*: the gateway is killed and started again; counted from the moment that it listens until all are back.

One line goes to ``tests/faults/results.jsonl``; exit code 1 names what does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import psutil

from orchestrator.client import AsyncClient
from orchestrator.errors import EdgewiseError
from tests.fakes.agents import EXPERTS
from tests.fakes.processes import Fleet, Running, http_get
from tests.faults.campaign import Line, conclude
from tests.faults.history import p99_ms

REGISTERED_S = 15.0
REST_CORE_FRACTION = 0.10
RSS_BYTES = 300e6
P99_RATIO = 1.5
# The ratio of a single storm says little on a shared machine.
RATIO_FROM_STORMS = 3
# No agent waits longer than this before it dials again.
RECONNECT_S = 7.0

# Nodes that join are machines of their own: here they share the gateway's cores, and give way to what is measured.
# What 150 of them do to connect takes several times the processor time that the gateway takes to have them in.
GIVE_WAY = ("nice", "-n", "19")

RATE_HZ = 100.0
ASKED, OTHER = (expert for expert, _, _ in EXPERTS)
ZEROS = np.zeros((1, 8, 8), dtype=np.float32)


@dataclass(frozen=True)
class Size:
    """How large a run is."""

    crowds: int = 4
    nodes: int = 50
    storms: int = 5
    # Of the load before a storm, and of that beside it.
    phase_s: float = 4.0
    rest_s: float = 60.0

    @property
    def all_nodes(self) -> int:
        """Together."""
        return self.crowds * self.nodes


@dataclass
class Found:
    """What one run showed."""

    size: Size
    joined_s: list[float] = field(default_factory=list)
    calm_ms: list[list[float]] = field(default_factory=list)
    storm_ms: list[list[float]] = field(default_factory=list)
    # Processor milliseconds of the gateway that each node's coming took beyond the load's own.
    join_cpu_ms: list[float] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    rest_core_fraction: float = 0.0
    rss_bytes: int = 0
    registered_s: float = 0.0
    spread_s: float = 0.0
    plans: int = 0
    # What else wants the cores: with more than there are, latencies say more of that than of the storm.
    machine_load: float = field(default_factory=lambda: os.getloadavg()[0])

    @property
    def p99_ratio(self) -> float:
        """99th percentile during a storm over that before it: the median over the storms."""
        ratios = [p99_ms(storm) / p99_ms(calm) for calm, storm in zip(self.calm_ms, self.storm_ms, strict=True)]
        return float(np.median(ratios))

    def figures(self) -> dict[str, object]:
        """What is kept."""
        return {
            "nodes": self.size.all_nodes,
            "storms": self.size.storms,
            "joined_s_median": round(float(np.median(self.joined_s)), 3),
            "joined_s_max": round(max(self.joined_s), 3),
            "requests": sum(map(len, self.calm_ms)) + sum(map(len, self.storm_ms)),
            "failed": self.failed,
            "p99_calm_ms": round(p99_ms([ms for one in self.calm_ms for ms in one]), 3),
            "p99_storm_ms": round(p99_ms([ms for one in self.storm_ms for ms in one]), 3),
            "p99_ratio_median": round(self.p99_ratio, 3),
            "join_cpu_ms_median": round(float(np.median(self.join_cpu_ms)), 2),
            "rest_s": self.size.rest_s,
            "rest_core_fraction": round(self.rest_core_fraction, 4),
            "rss_mb": round(self.rss_bytes / 1e6, 1),
            "registered_s": round(self.registered_s, 3),
            "rejoin_spread_s": round(self.spread_s, 3),
            "plans": self.plans,
            "machine_load": round(self.machine_load, 1),
        }

    def missed(self) -> list[str]:
        """One sentence per bar that does not hold."""
        told = self.figures()
        checks = (
            (self.registered_s <= REGISTERED_S, f"all were back {self.registered_s:.1f} s after a cold restart"),
            (max(self.joined_s) <= REGISTERED_S, f"a storm took {max(self.joined_s):.1f} s to join"),
            (self.spread_s <= RECONNECT_S + 1.0, f"the last came {self.spread_s:.1f} s after the first"),
            (
                self.rest_core_fraction <= REST_CORE_FRACTION,
                f"at rest the gateway took {self.rest_core_fraction:.3f} of a core",
            ),
            (self.rss_bytes <= RSS_BYTES, f"the gateway took {told['rss_mb']} MB"),
            (not self.failed, f"requests failed: {self.failed}"),
            (
                self.size.storms < RATIO_FROM_STORMS or self.p99_ratio <= P99_RATIO,
                f"p99 in a storm is {self.p99_ratio:.2f} times that before",
            ),
        )
        return [f"join_storm: {sentence}" for holds, sentence in checks if not holds]


def connected(fleet: Fleet) -> int:
    """Nodes that are connected, by the gateway's own count."""
    status = fleet.status()
    return sum(node.state == "healthy" for node in status.nodes) if status else 0


def start_crowds(fleet: Fleet, size: Size, gateways: str | None = None) -> list[Running]:
    """Processes with agents that do not run yet."""
    target = gateways or fleet.address
    command = [sys.executable, "-m", "tests.faults.crowd", target]
    crowds = [
        fleet.start_beside(
            f"crowd{n}", [*(GIVE_WAY if n else ()), *command, f"c{n}", str(size.nodes), *((OTHER,) if n else ())]
        )
        for n in range(size.crowds)
    ]
    fleet.wait_until(lambda: all("crowd ready" in crowd.tail() for crowd in crowds), "crowds ready")
    return crowds


def tell(crowds: Sequence[Running], number: signal.Signals) -> None:
    """Send all of them a signal."""
    for crowd in crowds:
        crowd.popen.send_signal(number)


class Asking:
    """A steady load on an open loop; latencies in milliseconds."""

    def __init__(self, client: AsyncClient, seed: int) -> None:
        self._client = client
        self._rng = np.random.default_rng(seed)
        self.failed: Counter[str] = Counter()

    async def run(self, seconds: float, rate_hz: float = RATE_HZ) -> list[float]:
        """Poisson arrivals for so long; each latency from due to done."""
        found: list[float] = []
        now_s = time.monotonic()
        end_s, due_s = now_s + seconds, now_s
        async with asyncio.TaskGroup() as group:
            while (due_s := due_s + float(self._rng.exponential(1.0 / rate_hz))) < end_s:
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                group.create_task(self._ask(due_s, found))
        return found

    async def _ask(self, due_s: float, found: list[float]) -> None:
        try:
            await self._client.infer({"image": ZEROS}, expert=ASKED, timeout_s=3.0)
        except EdgewiseError as error:
            self.failed[error.reason] += 1
        found.append((time.monotonic() - due_s) * 1e3)


async def storm(fleet: Fleet, found: Found, crowds: Sequence[Running], asking: Asking) -> None:
    """One storm beside the load, and its end."""
    before, size = connected(fleet), found.size
    began_s = _cpu_s(fleet)
    found.calm_ms.append(await asking.run(size.phase_s))
    calm_s = _cpu_s(fleet) - began_s
    started_unix_s = time.time()
    tell(crowds, signal.SIGUSR1)
    everybody = before + size.nodes * len(crowds)
    # Nobody asks for the state of all nodes meanwhile: the answer takes the gateway longer than any join.
    found.storm_ms.append(await asking.run(size.phase_s))
    spent_s = _cpu_s(fleet) - began_s - 2.0 * calm_s
    found.join_cpu_ms.append(1e3 * spent_s / (size.nodes * len(crowds)))
    await asyncio.to_thread(fleet.wait_until, lambda: connected(fleet) == everybody, "joined")
    found.joined_s.append(max(_joined_unix_s(fleet, size.nodes * len(crowds))) - started_unix_s)
    tell(crowds, signal.SIGUSR2)
    await asyncio.to_thread(fleet.wait_until, lambda: connected(fleet) == before, "gone again")


def _cpu_s(fleet: Fleet) -> float:
    """Processor time of the gateway's process so far."""
    assert fleet.gateway is not None
    times = psutil.Process(fleet.gateway.pid).cpu_times()
    return float(times.user + times.system)


def _joined_unix_s(fleet: Fleet, count: int) -> list[float]:
    """When the last so many nodes joined, by the gateway's log."""
    assert fleet.gateway is not None
    stamps = [event["timestamp"] for event in fleet.gateway.events("node.joined")]
    return [datetime.fromisoformat(stamp).timestamp() for stamp in stamps[-count:]]


async def rest(fleet: Fleet, found: Found) -> None:
    """Nobody asks anything."""
    assert fleet.gateway is not None
    process = psutil.Process(fleet.gateway.pid)
    # What the storms left to plan is planned first.
    await asyncio.sleep(min(10.0, found.size.rest_s))
    before_s, started_s = _cpu_s(fleet), time.monotonic()
    await asyncio.sleep(found.size.rest_s)
    found.rest_core_fraction = (_cpu_s(fleet) - before_s) / (time.monotonic() - started_s)
    found.rss_bytes = process.memory_info().rss


async def cold_restart(fleet: Fleet, found: Found) -> None:
    """Kill the gateway, start it again, wait for all."""
    assert fleet.gateway is not None
    everybody = found.size.all_nodes
    fleet.gateway.end_group()
    await asyncio.to_thread(fleet.start_gateway)
    url = f"http://{fleet.http_address}/healthz"
    await asyncio.to_thread(fleet.wait_until, lambda: http_get(url)[0] == 200, "listening")
    found.registered_s = await asyncio.to_thread(
        fleet.wait_until, lambda: connected(fleet) == everybody, "all registered", timeout_s=60.0
    )
    joined = _joined_unix_s(fleet, everybody)
    found.spread_s = max(joined) - min(joined)


async def join_storm(fleet: Fleet, size: Size, *, seed: int = 0) -> Found:
    """Everything in turn."""
    found = Found(size)
    fleet.start_gateway()
    await asyncio.to_thread(fleet.wait_until, lambda: fleet.status() is not None, "listening")
    crowds = await asyncio.to_thread(start_crowds, fleet, size)
    tell(crowds[:1], signal.SIGUSR1)
    await asyncio.to_thread(fleet.wait_until, lambda: connected(fleet) == size.nodes, "the first are there")
    async with AsyncClient(fleet.address) as client:
        asking = Asking(client, seed)
        await asking.run(1.0)
        for _ in range(size.storms):
            await storm(fleet, found, crowds[1:], asking)
        found.failed = dict(asking.failed)
    tell(crowds, signal.SIGUSR1)
    await asyncio.to_thread(fleet.wait_until, lambda: connected(fleet) == size.all_nodes, "all are there")
    await rest(fleet, found)
    assert fleet.gateway is not None
    found.plans = len(fleet.gateway.events("plan.made"))
    await cold_restart(fleet, found)
    return found


def main() -> None:
    """Run, record, judge."""
    parser = argparse.ArgumentParser(description="Many nodes join one gateway at once.")
    parser.add_argument("--storms", type=int, default=5)
    parser.add_argument("--rest-s", type=float, default=60.0)
    parser.add_argument("--no-record", action="store_true")
    options = parser.parse_args()
    size = Size(storms=options.storms, rest_s=options.rest_s)
    with tempfile.TemporaryDirectory() as folder, Fleet(Path(folder)) as fleet:
        found = asyncio.run(join_storm(fleet, size))
    conclude([Line("join_storm", size.storms, found.figures(), found.missed())], keep=not options.no_record)


if __name__ == "__main__":
    main()
