"""Work for a cluster, in a process of its own: Ray ends the process of a driver whose head is gone for a minute.

``python -m tests.faults.ray_jobs sweep|endless|mortal ADDRESS``; prints lines of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from nodes.ray.keeper import Keeper
from nodes.ray.spec import AgentSpec, order_for
from optimizer.study.limits import limit_grid, sweep_limits
from orchestrator.placement.errors import PlacementError
from orchestrator.workers.cluster import RayWorkers
from orchestrator.workers.contract import Workers
from orchestrator.workers.driver import TOKEN_PATH, connect
from orchestrator.workers.local import Here
from tests.optimizer.study.toy import toy_table

PLANS = 200
KILL_AT = (40, 120)
NAP_S = 0.2


def nap(number: int) -> int:
    """A piece of work that takes a while."""
    time.sleep(NAP_S)
    return number


def drawn(number: int, seed: int) -> tuple[int, int]:
    """A piece of work that uses its seed."""
    return number, seed


def limits(table: Any) -> list[tuple[float, float]]:
    """200 pairs of limits."""
    energy, latency = limit_grid(table.joules_qm, 9), limit_grid(table.ms_qm, 6)
    steps = -(-PLANS // len(latency))
    joules = [energy[0] + (energy[-1] - energy[0]) * step / (steps - 1) for step in range(steps)]
    return [(a, b) for a in joules for b in latency][:PLANS]


def kill_one_worker() -> bool:
    """`kill -9` of one process that runs a task now, among those of raylets that this cluster has."""
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            if (process.info["cmdline"] or [""])[0].startswith("ray::run"):
                process.kill()
                return True
    return False


def swept(workers: Workers, killed: list[int]) -> list[Any]:
    """The sweep; with `killed` given, workers die at the moments that it names."""
    moments = list(killed)

    def progress(done: int, total: int) -> None:
        if total == PLANS and moments and done >= moments[0] and kill_one_worker():
            moments.pop(0)

    def mapper(function: Any, items: Any, what: str) -> Any:
        return workers.map(function, items, progress=progress)

    table = toy_table(240)
    points = sweep_limits(table, limits(table), mapper=mapper)
    killed[:] = moments
    return points


def sweep(address: str) -> dict[str, Any]:
    """The same sweep here and on the cluster, two of whose workers die."""
    plain = swept(Here(), [])
    started_s = time.monotonic()
    with RayWorkers(address) as workers:
        left = list(KILL_AT)
        found = swept(workers, left)
        seconds = time.monotonic() - started_s
        seeds = workers.map(drawn, range(20), seed=7) == Here().map(drawn, range(20), seed=7)
        control = "no error"
        try:
            workers.map(partial(_dies, 3), range(3), retry=0)
        except PlacementError as error:
            control = error.what
    return {
        "plans": len(found),
        "equal": [repr(point) for point in found] == [repr(point) for point in plain],
        "seeds_equal": seeds,
        "workers_killed": len(KILL_AT) - len(left),
        "without_retry": control,
        "seconds": round(seconds, 2),
    }


def _dies(code: int, number: int) -> int:
    """Takes its worker down."""
    os._exit(code + number + 1)


def endless(address: str) -> dict[str, Any]:
    """Work until the cluster is lost; when that was said."""
    with RayWorkers(address) as workers:
        print(json.dumps({"begun": True}), flush=True)
        try:
            workers.map(nap, range(100_000))
        except PlacementError as error:
            return {"error": error.what, "exit_code": int(error.exit_code), "said_unix_s": round(time.time(), 2)}
    return {"error": "none"}


def mortal(address: str, gateway: str) -> dict[str, Any]:
    """An agent whose actor Ray does not start again; lives until standard input ends."""
    ray = connect(address, Path(os.environ[TOKEN_PATH]))
    order = order_for(AgentSpec(name="mortal", profile="laptop-cpu", experts=("digits-linear",)), gateway, "1")
    actor = ray.remote(Keeper).options(max_restarts=0, num_cpus=0, max_concurrency=2).remote(vars(order))
    print(json.dumps({"keeper_pid": ray.get(actor.report.remote())["keeper_pid"]}), flush=True)
    sys.stdin.read()
    return {}


def main() -> None:
    """Run one of them."""
    verbs: dict[str, Callable[..., dict[str, Any]]] = {"sweep": sweep, "endless": endless, "mortal": mortal}
    print(json.dumps(verbs[sys.argv[1]](*sys.argv[2:])), flush=True)


if __name__ == "__main__":
    # Under its own name, so that workers find what is in here.
    from tests.faults.ray_jobs import main as started

    started()
