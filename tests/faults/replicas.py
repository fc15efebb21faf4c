"""Two gateways over one PostgreSQL store, one of them killed: ``python -m tests.faults.replicas`` (in ``make faults``).

Agents keep a stream to each replica. Clients ask both in turn and, where one is gone, ask the other with the same
request id. The fleet's budget allows less than all requests would take, so that it runs out in the middle. One replica
is killed with SIGKILL while requests run, and started again later.

Held to, at every look and in the end: joules spent and held within the budget; what the settlements add up to, plus
what the dead replica had reserved, is what was charged, but for attempts that were lost, whose joules nobody knows and
which are charged up to what was reserved (`unusual` counts them); a request id is answered and charged once; requests
go on at the other replica within 7 s, and the agents are back at the first within 7 s of its listening. The control
gives each replica books of its own, and then the same budget is spent twice.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deploy import postgres
from orchestrator.client import AsyncClient
from orchestrator.client.types import Quota
from orchestrator.errors import EdgewiseError
from tests.fakes.agents import EXPERTS
from tests.fakes.processes import Fleet, Running
from tests.faults.campaign import Line, conclude
from tests.faults.join_storm import ZEROS, connected

ENOUGH_S = 7.0
LEASE_S = 2.0
TOLERANCE_J = 1e-6
AGENTS = 4
AT_ONCE = 16
DEADLINE_S = 2.0
# A request id that the dead replica had taken is free after its deadline and the lease.
MAX_TURNS, PAUSE_S = 80, 0.1
# Asked by name: what it takes is known, 1 mJ and 2 µJ for each multiply-accumulate.
EXPERT, MACS = EXPERTS[0][0], EXPERTS[0][1]
RUN_J = 1e-3 + MACS * 2e-6
# What the budget allows, as a part of what all requests would take.
BUDGET_FRACTION = 0.6
KILL_AT, RESTART_AT = 0.25, 0.75


@dataclass
class Told:
    """What became of the requests, and what the books said meanwhile."""

    requests: int
    budget_j: float
    outcomes: Counter[str] = field(default_factory=Counter)
    answered_s: list[float] = field(default_factory=list)
    moved: int = 0
    replayed: int = 0
    most_j: float = 0.0
    looks: int = 0
    spent_j: float = 0.0
    held_j: float = 0.0
    settled_j: float = 0.0
    assumed_j: float = 0.0
    unknown_j: float = 0.0
    unusual: Counter[str] = field(default_factory=Counter)
    charged_twice: int = 0
    lost_answers: int = 0
    killed_s: float = 0.0
    back_s: float = 0.0
    answered_ids: set[str] = field(default_factory=set)

    @property
    def gap_s(self) -> float:
        """The longest time without any answer from the kill on, while the budget lasted."""
        after = [self.killed_s, *(at_s for at_s in self.answered_s if at_s >= self.killed_s)]
        return float(np.diff(after).max()) if len(after) > 1 else float("inf")

    def figures(self) -> dict[str, object]:
        """What is kept."""
        return {
            "requests": self.requests,
            "outcomes": dict(self.outcomes),
            "moved": self.moved,
            "replayed": self.replayed,
            "budget_j": round(self.budget_j, 6),
            "spent_j": round(self.spent_j, 6),
            "most_j": round(self.most_j, 6),
            "looks": self.looks,
            "settled_j": round(self.settled_j, 6),
            "assumed_j": round(self.assumed_j, 6),
            "unknown_j": round(self.unknown_j, 6),
            "unusual": dict(self.unusual),
            "charged_twice": self.charged_twice,
            "lost_answers": self.lost_answers,
            "gap_s": round(self.gap_s, 3),
            "back_s": round(self.back_s, 3),
        }

    def missed(self) -> list[str]:
        """One sentence for each thing that does not hold."""
        ended = sum(self.outcomes.values())
        known = {"answered", "BUDGET_EXHAUSTED"}
        others = {name: count for name, count in self.outcomes.items() if name not in known}
        checks = (
            (ended == self.requests, f"{ended} of {self.requests} requests ended"),
            (not others, f"requests failed: {others}"),
            (self.most_j <= self.budget_j + TOLERANCE_J, f"{self.most_j} J spent and held of {self.budget_j}"),
            (self.spent_j <= self.budget_j + TOLERANCE_J, f"{self.spent_j} J spent of {self.budget_j}"),
            (self.settled_j <= self.budget_j + TOLERANCE_J, f"{self.settled_j} J were really used of {self.budget_j}"),
            (self.outcomes["BUDGET_EXHAUSTED"] > 0, "the budget never ran out: nothing was shown of it"),
            (
                -TOLERANCE_J <= self.spent_j - self.settled_j - self.assumed_j <= self.unknown_j + TOLERANCE_J,
                f"settled {self.settled_j} J, assumed {self.assumed_j} J, at most {self.unknown_j} J of lost attempts:"
                f" not what was charged, {self.spent_j} J",
            ),
            (self.held_j <= self.budget_j and self.looks > 0, "nobody looked at the books"),
            (self.moved > 0, "nobody noticed that a replica was killed"),
            (self.charged_twice == 0, f"{self.charged_twice} request ids were charged twice"),
            (self.lost_answers == 0, f"{self.lost_answers} answers that clients have are in no books"),
            (self.gap_s <= ENOUGH_S, f"{self.gap_s:.1f} s without an answer after the kill"),
            (self.back_s <= ENOUGH_S, f"agents were back at the replica after {self.back_s:.1f} s"),
        )
        return [f"replicas: {sentence}" for holds, sentence in checks if not holds]


class Replicas:
    """Two gateways in one folder each, agents of both, and clients of both.

    Args:
        folder: For state and logs.
        settings: Environment of both gateways.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self.fleets = []
        for name in ("a", "b"):
            (folder / name).mkdir()
            self.fleets.append(Fleet(folder / name, settings))
        self._agents: Running | None = None

    async def __aenter__(self) -> Replicas:
        await asyncio.to_thread(self._start)
        return self

    async def __aexit__(self, *_: object) -> None:
        for fleet in self.fleets:
            fleet.close()

    def _start(self) -> None:
        first = self.fleets[0]
        targets = ",".join(fleet.address for fleet in self.fleets)
        for fleet in self.fleets:
            fleet.start_gateway({**fleet.settings, "EDGEWISE_NODES__GATEWAYS": targets})
        for fleet in self.fleets:
            fleet.wait_until(lambda fleet=fleet: fleet.status() is not None, "listening")  # type: ignore[misc]
        # The first tells them of the second.
        command = [sys.executable, "-m", "tests.faults.crowd", first.address, "node", str(AGENTS)]
        self._agents = first.start_beside("agents", command)
        first.wait_until(lambda: self._agents is not None and "crowd ready" in self._agents.tail(), "agents ready")
        self._agents.popen.send_signal(signal.SIGUSR1)
        for fleet in self.fleets:
            fleet.wait_until(lambda fleet=fleet: connected(fleet) == AGENTS, "agents at both")  # type: ignore[misc]

    def limit(self, day_j: float) -> None:
        """Set the fleet's budget at both."""
        for fleet in self.fleets:
            with fleet.client() as client:
                client.set_quota("fleet", Quota(day_j=day_j))

    def kill_first(self) -> None:
        """SIGKILL of one gateway with all that belongs to it."""
        gateway = self.fleets[0].gateway
        assert gateway is not None
        gateway.end_group()

    def restart_first(self) -> float:
        """Start it again; seconds from its listening until all agents are back."""
        first = self.fleets[0]
        first.start_gateway()
        first.wait_until(lambda: first.status() is not None, "listening again")
        return first.wait_until(lambda: connected(first) == AGENTS, "agents are back")

    @contextlib.asynccontextmanager
    async def clients(self) -> AsyncIterator[list[AsyncClient]]:
        """One of each gateway."""
        async with contextlib.AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(AsyncClient(fleet.address, timeout_s=DEADLINE_S))
                for fleet in self.fleets
            ]


class Callers:
    """Clients that ask both replicas in turn, so many at once, until all requests have ended."""

    def __init__(self, replicas: Replicas, clients: list[AsyncClient], told: Told) -> None:
        self._replicas = replicas
        self._clients = clients
        self._told = told
        self._next = 0

    async def run(self) -> None:
        """All requests, the kill, the restart, and somebody who looks at the books all the while."""
        looking = asyncio.create_task(self._look())
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._ask_on())
            group.create_task(self._strike())
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)

    async def _ask_on(self) -> None:
        while self._next < self._told.requests:
            number, self._next = self._next, self._next + 1
            await self._ask(number)

    async def _ask(self, number: int) -> None:
        told, request_id = self._told, f"r{number}"
        for turn in range(MAX_TURNS):
            client = self._clients[(number + turn) % 2]
            try:
                await client.infer({"image": ZEROS}, expert=EXPERT, request_id=request_id)
            except EdgewiseError as error:
                if error.reason in ("UNREACHABLE", "REQUEST_IN_PROGRESS", "NO_NODE", "DRAINING"):
                    told.moved += error.reason == "UNREACHABLE"
                    await asyncio.sleep(PAUSE_S)
                    continue
                told.outcomes[error.reason] += 1
                return
            told.outcomes["answered"] += 1
            told.answered_ids.add(request_id)
            told.answered_s.append(time.monotonic())
            return
        told.outcomes["gave up"] += 1

    async def _strike(self) -> None:
        told = self._told
        while self._next < KILL_AT * told.requests:  # noqa: ASYNC110 (nothing announces it)
            await asyncio.sleep(0.005)
        told.killed_s = time.monotonic()
        await asyncio.to_thread(self._replicas.kill_first)
        while self._next < RESTART_AT * told.requests:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        told.back_s = await asyncio.to_thread(self._replicas.restart_first)

    async def _look(self) -> None:
        while True:
            await asyncio.to_thread(look, self._replicas.fleets[1], self._told)
            await asyncio.sleep(0.05)


def look(fleet: Fleet, told: Told) -> None:
    """What the books say at this moment."""
    with fleet.client() as client:
        (status,) = client.quotas()
    (meter,) = status.meters
    told.looks += 1
    told.spent_j, told.held_j, told.assumed_j = meter.spent, meter.held, meter.assumed
    told.most_j = max(told.most_j, meter.spent + meter.held)


async def replicas(folder: Path, settings: Mapping[str, str], *, requests: int) -> Told:
    """One run."""
    told = Told(requests, BUDGET_FRACTION * requests * RUN_J)
    async with Replicas(folder, settings) as both, both.clients() as clients:
        both.limit(told.budget_j)
        # Replicas see each other's quotas within seconds.
        await asyncio.sleep(3.5)
        await Callers(both, clients, told).run()
        # What the dead replica had reserved is charged once its lease is over.
        await asyncio.sleep(2.5 * LEASE_S)
        for fleet in both.fleets:
            await asyncio.to_thread(look, fleet, told)
        await asyncio.to_thread(account, both.fleets[1], told)
    return told


def account(fleet: Fleet, told: Told) -> None:
    """What was settled, by whichever replica."""
    answered: Counter[str] = Counter()
    with fleet.client() as client:
        for record in client.settlements(3600.0):
            answered[record.request_id] += record.outcome == "answered"
            told.settled_j += record.energy_j
            if record.outcome != "answered" or record.provenance != "modelled" or "," in record.arms:
                told.unusual[f"{record.outcome} {record.provenance} {record.arms}"] += 1
                told.unknown_j += (record.reserved_j or 0.0) - record.energy_j
    told.charged_twice = sum(count > 1 for count in answered.values())
    told.lost_answers = sum(not answered[request_id] for request_id in told.answered_ids)


def shared(conninfo: str) -> dict[str, str]:
    """Settings of replicas that share their books."""
    return {
        "EDGEWISE_LEDGER__STORE": "postgres",
        "EDGEWISE_LEDGER__POSTGRES": conninfo,
        "EDGEWISE_LEDGER__LEASE_S": str(LEASE_S),
    }


APART = {"EDGEWISE_LEDGER__STORE": "memory", "EDGEWISE_LEDGER__LEASE_S": str(LEASE_S)}


async def overspent_apart(folder: Path, *, requests: int) -> float:
    """The control: joules beyond the budget where each replica keeps books of its own."""
    told = Told(requests, BUDGET_FRACTION * requests * RUN_J)
    async with Replicas(folder, APART) as both, both.clients() as clients:
        both.limit(told.budget_j)
        callers = Callers(both, clients, told)
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(callers._ask_on())
    return told.outcomes["answered"] * RUN_J - told.budget_j


def main() -> None:
    """Run, record, judge; exit code 77 where there is no PostgreSQL."""
    parser = argparse.ArgumentParser(description="Two gateways over one PostgreSQL store.")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-record", action="store_true")
    options = parser.parse_args()
    if why := postgres.available():
        print(f"NOT RUN: {why}")
        sys.exit(77)
    lines = []
    for repeat in range(options.repeats):
        with postgres.server() as conninfo, tempfile.TemporaryDirectory() as folder:
            told = asyncio.run(replicas(Path(folder), shared(conninfo), requests=options.requests))
        print(f"  replicas {repeat + 1}/{options.repeats}: {told.figures()}", flush=True)
        lines.append(Line("replicas", 1, told.figures(), told.missed()))
    with tempfile.TemporaryDirectory() as folder:
        over_j = asyncio.run(overspent_apart(Path(folder), requests=options.requests))
    tame = [] if over_j > 0.0 else ["control_replicas: separate books keep the budget as well: nothing is shown"]
    lines.append(Line("control_replicas", 1, {"overspent_j": round(over_j, 6)}, tame))
    conclude(lines, keep=not options.no_record)


if __name__ == "__main__":
    main()
