"""Many nodes join one gateway at once: ``python -m tests.faults.join_storm`` (part of ``make faults``).

200 agents in four processes, in this order:

1. *Storms*: 50 of them serve a steady load for one expert. The connections of the other 150, which offer another expert
   of the same task, break in the same moment, as when a switch loses power, and they come back; and again. Compared are
   the latencies of the load before each storm and while the nodes join: what the storm does to requests that none of
   the nodes that come answers.
2. *Strangers*: the 150 have never met this gateway, which therefore could not tell them to spread: all dial in one
   moment, as when a building gets its power back. Recorded beside, as are
3. *Elsewhere*: the same 150 strangers join another gateway on the same cores. What they do to the load of the first
   gateway, which none of them dials, is what sharing two cores with 150 machines does.
4. *Rest*: all 200 are connected and nobody asks anything: what the gateway's process takes of a core, and its memory.
5. *Cold restart*: the gateway is killed and started again; counted from the moment that it listens until all are back.
   The load goes on as soon as a node that serves it is back, until all are; compared are its latencies with those
   afterwards. Beside it the same with the 50 alone: what a gateway that has just started does by itself.

One line goes to ``tests/faults/results.jsonl``; exit code 1 names what does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import psutil

from orchestrator.client import AsyncClient
from orchestrator.errors import EdgewiseError
from tests.bench.harness import cores_awake
from tests.fakes.agents import EXPERTS
from tests.fakes.processes import Fleet, NotReady, Running, http_get
from tests.faults.campaign import Line, conclude
from tests.faults.join_storm_found import Found, Size, Storms

# Nodes that join are machines of their own: here they share the gateway's cores, and run where nobody else wants to.
# What 150 of them do to connect takes several times the processor time that the gateway takes to have them in. It takes
# a fleet in one session: between sessions neither this nor `nice` counts.
GIVE_WAY = ("chrt", "--idle", "0")

RATE_HZ = 100.0
ASKED, OTHER = (expert for expert, _, _ in EXPERTS)
ZEROS = np.zeros((1, 8, 8), dtype=np.float32)


@dataclass(frozen=True)
class Place:
    """Crowds that come to a fleet, and how many nodes that fleet has when all are there.

    Args:
        fleet: Where they come to.
        asked: Where the load is.
        crowds: Who comes.
        count: How many they are.
        everybody: How many nodes are there then.
    """

    fleet: Fleet
    asked: Fleet
    crowds: Sequence[Running]
    count: int
    everybody: int


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


async def storm(place: Place, found: Storms, start: signal.Signals, asking: Asking, phase_s: float) -> None:
    """One storm beside the load of the fleet.

    Args:
        place: Who comes, and where.
        found: Takes what was seen.
        start: Has them come.
        asking: The load, of the fleet whose latencies count.
        phase_s: How long it is looked at before and meanwhile.
    """
    began_s, waited_s, count = _cpu_s(place.fleet), _waited_s(place.asked), place.count
    found.calm_ms.append(await asking.run(phase_s))
    calm_s, calm_waited_s = _cpu_s(place.fleet) - began_s, _waited_s(place.asked) - waited_s
    started_unix_s = time.time()
    tell(place.crowds, start)
    # Nobody asks for the state of all nodes meanwhile: the answer takes the gateway longer than any join.
    found.storm_ms.append(await asking.run(phase_s))
    spent_s = _cpu_s(place.fleet) - began_s - 2.0 * calm_s
    found.join_cpu_ms.append(1e3 * spent_s / count)
    found.core_waits.append((calm_waited_s / phase_s, (_waited_s(place.asked) - waited_s - calm_waited_s) / phase_s))
    await asyncio.to_thread(place.fleet.wait_until, lambda: connected(place.fleet) == place.everybody, "joined")
    joined_s = [stamp_s - started_unix_s for stamp_s in _joined_unix_s(place.fleet, count)]
    if min(joined_s) < 0.0:
        raise NotReady("a node was never away: there was no storm")
    found.joined_s.append(max(joined_s))


async def _gone(place: Place) -> None:
    tell(place.crowds, signal.SIGUSR2)
    left = place.everybody - place.count
    await asyncio.to_thread(place.fleet.wait_until, lambda: connected(place.fleet) == left, "gone again")


def _cpu_s(fleet: Fleet) -> float:
    """Processor time of the gateway's process so far."""
    assert fleet.gateway is not None
    times = psutil.Process(fleet.gateway.pid).cpu_times()
    return float(times.user + times.system)


def _waited_s(fleet: Fleet) -> float:
    """How long the gateway's event loop has wanted a core so far that others had."""
    assert fleet.gateway is not None
    _, waited_ns, _ = Path(f"/proc/{fleet.gateway.pid}/schedstat").read_text().split()
    return int(waited_ns) / 1e9


def _joined_unix_s(fleet: Fleet, count: int) -> list[float]:
    """When the last so many nodes joined, by the gateway's log."""
    assert fleet.gateway is not None
    stamps = [event["timestamp"] for event in fleet.gateway.events("node.joined")]
    return [datetime.fromisoformat(stamp).timestamp() for stamp in stamps[-count:]]


async def elsewhere(fleet: Fleet, found: Found, asking: Asking) -> None:
    """Strangers who join another gateway on the same cores."""
    size = found.size
    with tempfile.TemporaryDirectory() as folder, Fleet(Path(folder), one_session=True) as other:
        other.start_gateway()
        await asyncio.to_thread(other.wait_until, lambda: other.status() is not None, "listening")
        count = size.nodes * (size.crowds - 1)
        crowds = await asyncio.to_thread(start_crowds, other, size)
        place = Place(other, fleet, crowds[1:], count, count)
        for _ in range(size.strange):
            await storm(place, found.elsewhere, signal.SIGUSR1, asking, size.phase_s)
            await _gone(place)


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


async def cold_restart(fleet: Fleet, found: Storms, asking: Asking, *, everybody: int, phase_s: float) -> float:
    """Kill the gateway, start it again, ask from the first node's return to the last one's.

    Returns the seconds between those two.
    """
    assert fleet.gateway is not None
    fleet.gateway.end_group()
    await asyncio.to_thread(fleet.start_gateway)
    url = f"http://{fleet.http_address}/healthz"
    await asyncio.to_thread(fleet.wait_until, lambda: http_get(url)[0] == 200, "listening")
    listening_unix_s = time.time()
    await asyncio.to_thread(fleet.wait_until, lambda: _serves(fleet), "somebody who serves")
    beside_ms = list[float]()
    # By the log, as in a storm. 60 s: then it is stuck.
    while len(joined := _joined_unix_s(fleet, everybody)) < everybody and time.time() < listening_unix_s + 60.0:
        beside_ms += await asking.run(0.5)
    found.joined_s.append(max(joined) - listening_unix_s if len(joined) == everybody else np.inf)
    found.storm_ms.append(beside_ms)
    found.calm_ms.append(await asking.run(phase_s))
    return max(joined) - min(joined)


def _serves(fleet: Fleet) -> bool:
    """Whether a node of the crowd that answers the load is there, by the gateway's log."""
    assert fleet.gateway is not None
    return any(str(event["node"]).startswith("c0-") for event in fleet.gateway.events("node.joined"))


async def join_storm(fleet: Fleet, size: Size, *, seed: int = 0) -> Found:
    """Everything in turn."""
    found = Found(size)
    fleet.start_gateway()
    await asyncio.to_thread(fleet.wait_until, lambda: fleet.status() is not None, "listening")
    crowds = await asyncio.to_thread(start_crowds, fleet, size)
    tell(crowds[:1], signal.SIGUSR1)
    await asyncio.to_thread(fleet.wait_until, lambda: connected(fleet) == size.nodes, "the first are there")
    coming = size.nodes * len(crowds[1:])
    here = Place(fleet, fleet, crowds[1:], coming, size.all_nodes)
    async with AsyncClient(fleet.address) as client:
        asking = Asking(client, seed)
        await asking.run(1.0)
        for _ in range(size.strange):
            await storm(here, found.strangers, signal.SIGUSR1, asking, size.phase_s)
            await _gone(here)
        tell(crowds, signal.SIGUSR1)
        await asyncio.to_thread(fleet.wait_until, lambda: connected(fleet) == size.all_nodes, "all are there")
        for _ in range(size.storms):
            await storm(here, found.back, signal.SIGHUP, asking, size.phase_s)
        if size.strange:
            await elsewhere(fleet, found, asking)
        await rest(fleet, found)
        assert fleet.gateway is not None
        found.plans = len(fleet.gateway.events("plan.made"))
        found.failed = dict(asking.failed)
        await restarts(fleet, found, crowds[1:], Asking(client, seed))
    return found


async def restarts(fleet: Fleet, found: Found, others: Sequence[Running], asking: Asking) -> None:
    """Cold restarts with all, then with those that serve alone."""
    size = found.size
    for _ in range(size.restarts):
        spread_s = await cold_restart(fleet, found.cold, asking, everybody=size.all_nodes, phase_s=size.phase_s)
        found.spread_s.append(spread_s)
    tell(others, signal.SIGUSR2)
    await asyncio.to_thread(fleet.wait_until, lambda: connected(fleet) == size.nodes, "gone again")
    for _ in range(size.restarts if size.strange else 0):
        await cold_restart(fleet, found.alone, asking, everybody=size.nodes, phase_s=size.phase_s)
    found.cold_failed = dict(asking.failed)


def main() -> None:
    """Run, record, judge."""
    parser = argparse.ArgumentParser(description="Many nodes join one gateway at once.")
    parser.add_argument("--storms", type=int, default=Size.storms)
    parser.add_argument("--rest-s", type=float, default=60.0)
    parser.add_argument("--no-record", action="store_true")
    options = parser.parse_args()
    size = Size(storms=options.storms, rest_s=options.rest_s)
    with (
        tempfile.TemporaryDirectory() as folder,
        Fleet(Path(folder), one_session=True) as fleet,
        cores_awake() as awake,
    ):
        found = asyncio.run(join_storm(fleet, size))
    found.cores_awake = awake
    conclude([Line("join_storm", size.storms, found.figures(), found.missed())], keep=not options.no_record)


if __name__ == "__main__":
    main()
