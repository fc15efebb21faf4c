"""A real gateway and five real agents beside their simulation, under the same arrivals.

The agents replay recordings (`tests.fakes.replay_agent`): milliseconds made of the tokens that a public trace says were
generated (Azure's conversations; 40 to 200 ms), joules made of those and a device's watts. Of a machine's part of the
trace, in the order of its times, every other row is what it announces itself by, which is all that the simulator is
told; the rows between them it replays, in balanced order. A run replays two hundred rows of each machine or so. In any
order those take 2 to 3 % more or less than was announced, and the fleet, which then sends more to dearer nodes, twice
that in joules: the draw would count as an error of the simulator. The hop is calibrated once, on a run of its own at a
load of 0.1: the median of what the client waits beyond queue and service.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import gzip
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import psutil
from numpy.typing import NDArray

from edgewise.v1 import common_pb2, gateway_pb2, gateway_pb2_grpc
from orchestrator.simulation.load import Load
from orchestrator.simulation.run import simulate
from orchestrator.simulation.world import Device, Expert, GatewayTraits, Node, TaskClass, World
from tests.fakes.processes import Fleet
from tests.fakes.replay_agent import EXPERT, QUALITY, SCALE_MS, TASK

Floats = NDArray[np.float64]

LOADS = (0.3, 0.6, 0.85)
CALIBRATION_LOAD = 0.1
LEAST_MS, MOST_MS, MS_PER_TOKEN = 40.0, 200.0, 0.25
WARM_UP_S = 5.0
# Long beside what waits on a node at a time, so that waits are as of draws; short beside a run.
BLOCK = 50
DEADLINE_S = 10.0
BY_MACHINE = ("share_m", "energy_j_m")
# Runs of the simulator for one real run; their median stands against it.
SIMULATED = 5


@dataclass(frozen=True)
class Machine:
    """A kind of machine: how long it takes for the trace's milliseconds, and what it draws."""

    name: str
    factor: float
    active_w: float
    idle_w: float


MACHINES = (
    Machine("orin-1", 0.8, 20.0, 9.0),
    Machine("orin-2", 0.8, 20.0, 9.0),
    Machine("laptop-1", 1.0, 35.0, 6.0),
    Machine("laptop-2", 1.0, 35.0, 6.0),
    Machine("desktop-1", 0.6, 90.0, 30.0),
)
NAMES = [machine.name for machine in MACHINES]


@dataclass(frozen=True)
class Recording:
    """Runs of one machine: those it announces itself by, and those it replays; columns are ms and joules."""

    profile: Floats
    replayed: Floats


@dataclass(frozen=True)
class Seen:
    """One real run or simulated run, after the warm-up; `load_fraction` is the machine's CPU meanwhile.

    Of each machine (m): its share of the answers, and its mean joules of one; NaN where it gave none.
    """

    answered_fraction: float
    p50_ms: float
    p95_ms: float
    energy_j: float
    share_m: tuple[float, ...]
    energy_j_m: tuple[float, ...]
    hop_ms: float = 0.0
    load_fraction: float = 0.0


def recordings(data: Path) -> dict[str, Recording]:
    """Recordings of all machines."""
    with gzip.open(data / "workload_traces/AzureLLMInferenceTrace_conv.csv.gz", "rt") as file:
        tokens_q = np.array([float(row["GeneratedTokens"]) for row in csv.DictReader(file)])
    rng = np.random.default_rng(41)
    found = {}
    for k, machine in enumerate(MACHINES):
        mine_q = tokens_q[k :: len(MACHINES)]
        ms_q = np.clip((LEAST_MS + MS_PER_TOKEN * mine_q) * machine.factor, LEAST_MS, MOST_MS)
        joules_q = machine.active_w * ms_q * 1e-3 * rng.lognormal(0.0, 0.1, len(ms_q))
        rows = np.stack([ms_q, joules_q], axis=1)[np.argsort(ms_q, kind="stable")]
        found[machine.name] = Recording(rows[::2], balanced(rows[1::2], rng))
    return found


def balanced(rows: Floats, rng: np.random.Generator) -> Floats:
    """Rows that rise, in an order in which each block has one row of each of so many equal parts of them; else random.

    As many rows as make no whole block are left out, by the throw of dice.
    """
    per_part = len(rows) // BLOCK
    kept = np.sort(rng.permutation(len(rows))[: per_part * BLOCK])
    parts = [rng.permutation(part) for part in rows[kept].reshape(BLOCK, per_part, 2)]
    return np.concatenate([rng.permutation(block) for block in np.stack(parts, axis=1)])


def turned(recorded: dict[str, Recording], fraction: float) -> dict[str, Recording]:
    """The same recordings, of which a run replays another part first.

    A run sees a few hundred rows of each machine. Were they the same ones in every run, then how far those happen to
    be from the profile would stay in the median over the runs.
    """
    return {
        name: Recording(one.profile, np.roll(one.replayed, -int(fraction * len(one.replayed)), axis=0))
        for name, one in recorded.items()
    }


def world_of(recorded: dict[str, Recording], hop_ms: float) -> World:
    """What the simulator is told: each machine's profile."""
    nodes = []
    for machine in MACHINES:
        ms_q, joules_q = recorded[machine.name].profile.T
        p50_ms, p95_ms = np.quantile(ms_q, (0.5, 0.95))
        samples = tuple(np.sort(ms_q).tolist())
        expert = Expert(EXPERT, TASK, QUALITY, float(p50_ms), float(p95_ms), float(joules_q.mean()), samples_ms=samples)
        nodes.append(Node(machine.name, Device(machine.name, (expert,), idle_w=machine.idle_w)))
    task = TaskClass(TASK, deadline_s=DEADLINE_S)
    return World({node.name: node.device for node in nodes}, tuple(nodes), (task,), GatewayTraits(hop_ms=hop_ms))


def capacity_per_s(recorded: dict[str, Recording]) -> float:
    """Requests that all machines together could answer."""
    return float(sum(1e3 / recorded[machine.name].profile[:, 0].mean() for machine in MACHINES))


def arrivals(rate_per_s: float, seconds: float, seed: int) -> Floats:
    """A Poisson process."""
    rng = np.random.default_rng((seed, 17))
    return np.sort(rng.uniform(0.0, seconds, int(rng.poisson(rate_per_s * seconds))))


# ---- the real run


@contextlib.asynccontextmanager
async def real_fleet(recorded: dict[str, Recording]) -> AsyncIterator[str]:
    """A gateway and an agent per machine, as processes; yields the gateway's address."""
    with tempfile.TemporaryDirectory() as folder, Fleet(Path(folder)) as fleet:
        fleet.start_gateway()
        for machine in MACHINES:
            files = []
            for part, rows in (
                ("replayed", recorded[machine.name].replayed),
                ("profile", recorded[machine.name].profile),
            ):
                file = Path(folder) / f"{machine.name}-{part}.csv"
                np.savetxt(file, rows, fmt="%.6f", delimiter=",", header="ms,joules", comments="")
                files.append(str(file))
            command = [sys.executable, "-m", "tests.fakes.replay_agent", fleet.address, machine.name, *files]
            fleet.start_process(machine.name, [*command, str(machine.idle_w)])
        await asyncio.to_thread(fleet.wait_ready)
        yield fleet.address


async def real_run(recorded: dict[str, Recording], at_s_q: Floats) -> Seen:
    """Ask a fresh fleet at these times."""
    async with real_fleet(recorded) as address, grpc.aio.insecure_channel(address) as channel:
        stub: gateway_pb2_grpc.GatewayAsyncStub = gateway_pb2_grpc.GatewayStub(channel)
        await stub.Infer(_request(), timeout=DEADLINE_S)
        psutil.cpu_percent()
        answers = await _ask_all(stub, at_s_q)
        load_fraction = psutil.cpu_percent() / 100.0
    counted = np.array(answers)[at_s_q >= WARM_UP_S]
    answered = counted[np.isfinite(counted[:, 0])]
    p50_ms, p95_ms = np.quantile(answered[:, 0], (0.5, 0.95))
    hop_ms = float(np.median(answered[:, 0] - answered[:, 1]))
    share = len(answered) / len(counted)
    machines = _by_machine(answered[:, 3].astype(np.intp), answered[:, 2])
    energy_j = float(answered[:, 2].mean())
    return Seen(share, float(p50_ms), float(p95_ms), energy_j, *machines, hop_ms=hop_ms, load_fraction=load_fraction)


def _by_machine(machine_q: NDArray[np.intp], energy_j_q: Floats) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Share of the answers and mean joules of each machine."""
    count_m = np.bincount(machine_q, minlength=len(MACHINES))
    joules_m = np.bincount(machine_q, energy_j_q, minlength=len(MACHINES))
    mean_j_m = np.divide(joules_m, count_m, out=np.full(len(MACHINES), np.nan), where=count_m > 0)
    return tuple((count_m / count_m.sum()).tolist()), tuple(mean_j_m.tolist())


async def _ask_all(stub: gateway_pb2_grpc.GatewayAsyncStub, at_s_q: Floats) -> list[tuple[float, ...]]:
    started_s = time.monotonic()
    asked = []
    for at_s in at_s_q.tolist():
        await asyncio.sleep(max(0.0, started_s + at_s - time.monotonic()))
        asked.append(asyncio.ensure_future(_ask(stub)))
    return list(await asyncio.gather(*asked))


def _request() -> gateway_pb2.InferRequest:
    data = np.zeros((1, 1), np.float32).tobytes()
    tensor = common_pb2.Tensor(name="x", dtype=common_pb2.DTYPE_FLOAT32, shape=(1, 1), data=data)
    return gateway_pb2.InferRequest(task=TASK, inputs=[tensor])


async def _ask(stub: gateway_pb2_grpc.GatewayAsyncStub) -> tuple[float, ...]:
    """Milliseconds of the client, those of node and queue, joules, and the machine; NaN where no answer came."""
    started_s = time.monotonic()
    try:
        reply = await stub.Infer(_request(), timeout=DEADLINE_S)
    except grpc.aio.AioRpcError as error:
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return np.nan, np.nan, np.nan, np.nan
        raise
    elapsed_ms = (time.monotonic() - started_s) * 1e3
    told = np.frombuffer(reply.outputs[0].data, np.float32)[:2]
    machine = NAMES.index(reply.routing.attempts[-1].arm.rpartition("@")[2])
    return elapsed_ms, float(told.sum()) * SCALE_MS, reply.energy.energy_j, machine


# ---- the simulated run


def simulated_run(world: World, at_s_q: Floats, *, queueing: bool = True) -> Seen:
    """The median of several simulations under these arrivals."""
    runs = [_simulated(world, at_s_q, seed, queueing=queueing) for seed in range(SIMULATED)]
    names = ("answered_fraction", "p50_ms", "p95_ms", "energy_j")
    answered, p50_ms, p95_ms, energy_j = (float(np.median([getattr(run, name) for run in runs])) for name in names)
    share_m, energy_j_m = (
        np.ma.masked_invalid([getattr(run, name) for run in runs]).mean(axis=0).filled(np.nan) for name in BY_MACHINE
    )
    return Seen(answered, p50_ms, p95_ms, energy_j, tuple(share_m.tolist()), tuple(energy_j_m.tolist()))


def _simulated(world: World, at_s_q: Floats, seed: int, *, queueing: bool) -> Seen:
    load = Load(at_s_q, np.zeros(len(at_s_q), dtype=np.intp), seed, queueing=queueing)
    outcome = simulate(world, load)
    ends = outcome.ends
    counted_q = at_s_q >= WARM_UP_S
    answered_q = counted_q & ends.answered_q
    p50_ms, p95_ms = np.quantile(ends.ms_q[answered_q], (0.5, 0.95))
    share = float(answered_q.sum() / counted_q.sum())
    counts_m = np.array([machine.answered for machine in outcome.machines])
    joules_m = np.array([machine.active_j for machine in outcome.machines])
    mean_j_m = np.divide(joules_m, counts_m, out=np.full(len(MACHINES), np.nan), where=counts_m > 0)
    share_m = tuple((counts_m / counts_m.sum()).tolist())
    energy_j = float(ends.energy_j_q[answered_q].mean())
    return Seen(share, float(p50_ms), float(p95_ms), energy_j, share_m, tuple(mean_j_m.tolist()))


def energy_errors_of_machines(real: Sequence[Seen], world: World) -> list[float]:
    """How far joules per answer would be if the simulator had sent the real run's shares to each machine.

    What is left of `errors` without this is where requests went, and not what a request takes.
    """
    told_j_m = np.array([node.device.experts[0].energy_j for node in world.nodes])
    return [abs(float(np.dot(seen.share_m, told_j_m)) / seen.energy_j - 1.0) for seen in real]


def errors(real: Sequence[Seen], modelled: Sequence[Seen], name: str) -> list[float]:
    """How far each simulated figure is from the real one, as a fraction of that."""
    return [abs(getattr(its, name) / getattr(mine, name) - 1.0) for mine, its in zip(real, modelled, strict=True)]
