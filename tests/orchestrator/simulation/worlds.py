"""Small worlds and loads for tests."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from orchestrator.simulation.load import Load
from orchestrator.simulation.world import Device, Expert, GatewayTraits, TaskClass, World
from orchestrator.types import BudgetRequest

HOUR_MS = 3_600_000.0
# Nothing but the queues of the nodes holds anybody up.
WIDE_OPEN = GatewayTraits(max_running=65_536, max_queued=0, hop_ms=0.0)
PATIENT = TaskClass("a", budget=BudgetRequest(None, HOUR_MS), deadline_s=3600.0)


def an_expert(name: str = "small", task: str = "a", **fields: Any) -> Expert:
    known: dict[str, Any] = {"quality_fraction": 0.8, "p50_ms": 20.0, "p95_ms": 40.0, "energy_j": 0.1}
    return Expert(name, task, **(known | fields))


def a_device(name: str = "orin", *experts: Expert, **fields: Any) -> Device:
    return Device(name, experts or (an_expert(),), **fields)


def a_world(*devices: tuple[Device, int], tasks: tuple[TaskClass, ...] = (TaskClass("a"),), **fields: Any) -> World:
    world = World({device.name: device for device, _ in devices}, (), tasks, **fields)
    for device, count in devices:
        world = world.add(device.name, count)
    return world


def a_load(rate_per_s: float, count: int, *, tasks: int = 1, seed: int = 0, **fields: Any) -> Load:
    rng = np.random.default_rng((seed, 99))
    at_s_q = np.cumsum(rng.exponential(1.0 / rate_per_s, count))
    return Load(at_s_q, rng.integers(0, tasks, count).astype(np.intp), seed, **fields)


def exponential_ms(mean_ms: float, steps: int = 4000) -> tuple[float, ...]:
    """Quantiles of an exponential distribution, which drawing from is drawing from it."""
    return tuple(-mean_ms * math.log1p(-(k + 0.5) / steps) for k in range(steps))


def erlang_c_wait_s(arrivals_per_s: float, service_s: float, servers: int) -> float:
    """Mean wait of M/M/c."""
    offered = arrivals_per_s * service_s
    busy = offered / servers
    top = offered**servers / math.factorial(servers) / (1.0 - busy)
    queued = top / (sum(offered**k / math.factorial(k) for k in range(servers)) + top)
    return queued * service_s / (servers * (1.0 - busy))
