"""The simulator: how fast it is, and how close to a real fleet.

Speed: one route decision over 3,000 arms; a million requests on 1,000 nodes and a hundred thousand on 10,000, with
budgets per request, long-run budgets and two classes of requests. Closeness: see `tests.bench.simulate_fidelity`; the
control is the same simulator without queues, which must miss.

``--quick`` takes a tenth of the requests, and one real run of 20 s at each load; its rows have names of their own and
meet no bar but the route's. The closeness needs EDGEWISE_EVAL_DATA; without it everything else is measured and the
process says ``not run`` (77). In full about 45 minutes. ``--closeness`` leaves the speed out: about 20 minutes, on a
machine where nothing else runs.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time

import numpy as np
import psutil

from orchestrator.longrun import LongRun
from orchestrator.simulation.load import Load
from orchestrator.simulation.run import Simulation
from orchestrator.simulation.world import Device, Expert, GatewayTraits, TaskClass, World
from orchestrator.types import BudgetRequest
from tests.bench import simulate_fidelity as fidelity
from tests.bench.harness import NOT_RUN, Bar, Row, evaluation_data, main, record, spread
from tests.bench.route_decision import route_us
from tests.bench.simulate_fidelity import LOADS, Seen

QUICK, CLOSENESS = "--quick" in sys.argv, "--closeness" in sys.argv
ROUTE_BAR = Bar("route_3000_arms_us", 300.0, "<=")
SPEED_BARS = (
    ROUTE_BAR,
    Bar("simulated_1000_nodes_1000000_requests_s", 600.0, "<="),
    Bar("simulated_10000_nodes_100000_requests_s", 600.0, "<="),
)
CLOSENESS_BARS = (
    *(Bar(f"p95_error_load_{load:g}", 0.15, "<=") for load in LOADS),
    *(Bar(f"energy_error_load_{load:g}", 0.05, "<=") for load in LOADS),
    *(Bar(f"p95_error_without_queues_load_{load:g}", 0.15, ">=") for load in LOADS),
    # Beyond this the real runs are late because of the machine that they share.
    *(Bar(f"cpu_fraction_load_{load:g}", 0.6, "<=") for load in LOADS),
)
SIZES = ((1000, 1_000_000), (10_000, 100_000))
RATE_PER_S = 12_000.0
REAL_RUNS, REAL_S, CALIBRATION_S = 5, 60.0, 30.0


# Device, slots, idle watts; of each expert: name, task, quality, median ms, joules. All made up.
KINDS = (
    ("orin", 2, 9.0, (("small", "a", 0.80, 10.0, 0.1), ("mid", "a", 0.88, 30.0, 0.5), ("read", "b", 0.70, 15.0, 0.2))),
    ("lap", 1, 15.0, (("small", "a", 0.80, 20.0, 0.4), ("mid", "a", 0.88, 80.0, 2.0), ("write", "b", 0.9, 90.0, 2.0))),
    ("desk", 4, 40.0, (("mid", "a", 0.88, 8.0, 3.0), ("large", "a", 0.95, 25.0, 9.0), ("write", "b", 0.9, 20.0, 6.0))),
)


def big_world(nodes: int) -> World:
    """Three kinds of node, each with three experts of two tasks."""
    devices = {
        name: Device(name, tuple(_expert(*expert) for expert in experts), concurrency=slots, idle_w=idle_w)
        for name, slots, idle_w, experts in KINDS
    }
    tasks = (
        TaskClass("a", 0.7, BudgetRequest(30.0, 400.0, None, "balanced"), LongRun(1.0)),
        TaskClass("b", 0.3, BudgetRequest(None, 600.0, None, "eco"), LongRun(2.5)),
    )
    world = World(devices, (), tasks, GatewayTraits(max_running=65_536, max_queued=1024))
    for place, name in enumerate(devices):
        world = world.add(name, nodes // 3 + (place < nodes % 3))
    return world


def _expert(name: str, task: str, quality: float, p50_ms: float, energy_j: float) -> Expert:
    return Expert(name, task, quality, p50_ms, 2.0 * p50_ms, energy_j, energy_sigma=0.1)


def speed(nodes: int, requests: int) -> list[Row]:
    """Seconds of one run, world and load included."""
    started_s, cpu_s = time.perf_counter(), time.process_time()
    rng = np.random.default_rng(0)
    at_s_q = np.cumsum(rng.exponential(1.0 / RATE_PER_S, requests))
    task_q = (rng.random(requests) < 0.3).astype(np.intp)
    outcome = Simulation(big_world(nodes), Load(at_s_q, task_q)).run()
    seconds = time.perf_counter() - started_s
    ended = outcome.ends.state_q
    if (ended == 0).any() or len(ended) != requests:
        raise SystemExit("a request did not end")
    answered = float(outcome.ends.answered_q.mean())
    sizes: dict[str, object] = {
        "arms": 3 * nodes,
        "events": outcome.events,
        "answered_fraction": answered,
        "rate_per_s": RATE_PER_S,
        "cpu_s": time.process_time() - cpu_s,
        "machine_load": os.getloadavg()[0],
    }
    name = f"simulated_{nodes}_nodes_{requests}_requests"
    memory_gib = psutil.Process().memory_info().rss / 2**30
    return [
        Row(f"{name}_s", seconds, "s", sizes),
        Row(f"{name}_us_per_request", seconds / requests * 1e6, "us", sizes),
        Row(f"{name}_rss_gib", memory_gib, "GiB", sizes),
    ]


def route_row() -> Row:
    """One decision over the arms of a large fleet, under load."""
    low, middle, high = spread(route_us(arms=3000))
    return Row("route_3000_arms_us", middle, "us", {"arms": 3000, "quartiles": [low, high]})


def closeness(*, runs: int, seconds: float, prefix: str = "") -> list[Row]:
    """How far the simulator is from real runs, at each load."""
    recorded = fidelity.recordings(evaluation_data())
    capacity = fidelity.capacity_per_s(recorded)
    calm = fidelity.arrivals(fidelity.CALIBRATION_LOAD * capacity, min(seconds, CALIBRATION_S), 1)
    hop_ms = asyncio.run(fidelity.real_run(recorded, calm)).hop_ms
    world = fidelity.world_of(recorded, hop_ms)
    rows = [Row(f"{prefix}hop_ms", hop_ms, "ms", {"load": fidelity.CALIBRATION_LOAD})]
    for load in LOADS:
        real, modelled, unqueued = list[Seen](), list[Seen](), list[Seen]()
        for run in range(runs):
            at_s_q = fidelity.arrivals(load * capacity, seconds, 100 + run)
            real.append(asyncio.run(fidelity.real_run(fidelity.turned(recorded, run / runs), at_s_q)))
            modelled.append(fidelity.simulated_run(world, at_s_q))
            unqueued.append(fidelity.simulated_run(world, at_s_q, queueing=False))
        rows += _rows(load, real, modelled, unqueued, prefix=prefix)
        at_real_shares = fidelity.energy_errors_of_machines(real, world)
        rows.append(Row(f"{prefix}energy_error_at_real_shares_load_{load:g}", _median(at_real_shares), "fraction"))
    return rows


def _median(values: list[float]) -> float:
    return float(np.median(values))


def _rows(load: float, real: list[Seen], modelled: list[Seen], unqueued: list[Seen], *, prefix: str) -> list[Row]:
    sizes: dict[str, object] = {
        "runs": len(real),
        "nodes": len(fidelity.MACHINES),
        "machine_load": os.getloadavg()[0],
        "real_shares": [_rounded(seen.share_m) for seen in real],
        "simulated_shares": [_rounded(seen.share_m) for seen in modelled],
        "real_energy_j_of_machines": [_rounded(seen.energy_j_m) for seen in real],
        "simulated_energy_j_of_machines": [_rounded(seen.energy_j_m) for seen in modelled],
        "real_p95_ms": [round(seen.p95_ms, 1) for seen in real],
        "simulated_p95_ms": [round(seen.p95_ms, 1) for seen in modelled],
        "real_answered": [round(seen.answered_fraction, 4) for seen in real],
        "simulated_answered": [round(seen.answered_fraction, 4) for seen in modelled],
        "real_energy_j": [round(seen.energy_j, 4) for seen in real],
        "simulated_energy_j": [round(seen.energy_j, 4) for seen in modelled],
    }
    found = {
        "p95_error": fidelity.errors(real, modelled, "p95_ms"),
        "p50_error": fidelity.errors(real, modelled, "p50_ms"),
        "energy_error": fidelity.errors(real, modelled, "energy_j"),
        "p95_error_without_queues": fidelity.errors(real, unqueued, "p95_ms"),
        "cpu_fraction": [seen.load_fraction for seen in real],
    }
    return [Row(f"{prefix}{name}_load_{load:g}", _median(values), "fraction", sizes) for name, values in found.items()]


def _rounded(values: tuple[float, ...]) -> list[float | None]:
    return [round(value, 3) if math.isfinite(value) else None for value in values]


def run() -> list[Row]:
    """All rows."""
    rows = [] if CLOSENESS else [route_row()]
    for nodes, requests in () if CLOSENESS else SIZES:
        rows += speed(nodes, requests // 10 if QUICK else requests)
    if not os.environ.get("EDGEWISE_EVAL_DATA"):
        if "--no-record" not in sys.argv:
            record("simulate", rows)
        print("\n".join(f"{row.metric}  {row.value:.5g} {row.unit}" for row in rows))
        print("not run: the closeness to a real fleet needs EDGEWISE_EVAL_DATA")
        raise SystemExit(NOT_RUN)
    if QUICK:
        return rows + closeness(runs=1, seconds=20.0, prefix="quick_")
    return rows + closeness(runs=REAL_RUNS, seconds=REAL_S)


def _bars() -> tuple[Bar, ...]:
    if QUICK:
        return () if CLOSENESS else (ROUTE_BAR,)
    return CLOSENESS_BARS if CLOSENESS else (*SPEED_BARS, *CLOSENESS_BARS)


if __name__ == "__main__":
    main(stem="simulate", run=run, bars=_bars())
