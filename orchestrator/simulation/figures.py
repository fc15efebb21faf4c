"""What an outcome amounts to: quality, joules, milliseconds, refusals and utilisation.

Shape letters: q requests, b batches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.simulation.machines import Machine
from orchestrator.simulation.outcome import STATES, Ends, Outcome
from orchestrator.simulation.world import World

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Figures:
    """Of one kind of request, or of all; NaN where nothing was answered.

    Args:
        requests: How many came after the warm-up.
        answered_fraction: Share that was answered.
        quality_fraction: Expected share of right answers among those.
        energy_j: Active joules per answered request; those of work in vain are in it.
        p50_ms: Median from arrival to answer, like the next three.
        ends: Share of the requests by how they ended.
    """

    requests: int
    answered_fraction: float
    quality_fraction: float
    energy_j: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    ends: Mapping[str, float]


@dataclass(frozen=True)
class NodeFigures:
    """Of one node over the whole run.

    Args:
        utilisation_fraction: Busy share of its slots.
        active_j: Joules of what it ran; NaN where some of it is unmeasured.
        idle_j: Joules of idle power; None where the fleet file does not say.
    """

    node: str
    device: str
    answered: int
    utilisation_fraction: float
    longest_queue: int
    active_j: float
    idle_j: float | None


@dataclass(frozen=True)
class Summary:
    """One scenario.

    Args:
        nodes_total: Nodes of the fleet.
        duration_s: From the first moment of the load to the last event.
        active_j: Joules of all work.
        idle_j: Joules of idle power of the nodes that tell it.
        idle_unknown: Nodes that do not.
        all: Of all requests.
        tasks: By task.
        nodes: By node.
    """

    nodes_total: int
    duration_s: float
    events: int
    active_j: float
    idle_j: float
    idle_unknown: int
    all: Figures
    tasks: Mapping[str, Figures]
    nodes: tuple[NodeFigures, ...]


def summarise(world: World, outcome: Outcome, *, warm_up_s: float = 0.0) -> Summary:
    """The figures of a run.

    Args:
        world: What was simulated.
        outcome: What became of it.
        warm_up_s: Requests that came before are left out of the figures of requests.
    """
    ends, counted_q = outcome.ends, outcome.ends.at_s_q >= warm_up_s
    tasks = {task.name: figures(ends, counted_q & (ends.task_q == t)) for t, task in enumerate(world.tasks)}
    nodes = tuple(_node(machine, outcome.until_s) for machine in outcome.machines)
    known = [node.idle_j for node in nodes if node.idle_j is not None]
    return Summary(
        nodes_total=len(world.nodes),
        duration_s=outcome.until_s,
        events=outcome.events,
        active_j=math.fsum(node.active_j for node in nodes),
        idle_j=math.fsum(known),
        idle_unknown=len(nodes) - len(known),
        all=figures(ends, counted_q),
        tasks=tasks,
        nodes=nodes,
    )


def figures(ends: Ends, counted_q: Bools) -> Figures:
    """Of the requests that count."""
    requests = int(counted_q.sum())
    answered_q = counted_q & ends.answered_q
    answered = int(answered_q.sum())
    ms_q = ends.ms_q[answered_q]
    p50_ms, p95_ms, p99_ms = np.quantile(ms_q, (0.5, 0.95, 0.99)) if answered else (np.nan,) * 3
    shares = np.bincount(ends.state_q[counted_q], minlength=len(STATES)) / max(1, requests)
    return Figures(
        requests=requests,
        answered_fraction=answered / requests if requests else math.nan,
        quality_fraction=float(ends.quality_q[answered_q].mean()) if answered else math.nan,
        energy_j=float(ends.energy_j_q[counted_q].sum()) / answered if answered else math.nan,
        mean_ms=float(ms_q.mean()) if answered else math.nan,
        p50_ms=float(p50_ms),
        p95_ms=float(p95_ms),
        p99_ms=float(p99_ms),
        ends={state: float(share) for state, share in zip(STATES, shares, strict=True) if share},
    )


def _node(machine: Machine, until_s: float) -> NodeFigures:
    there_s, device = machine.occupied_s(until_s), machine.device
    return NodeFigures(
        node=machine.name,
        device=device.name,
        answered=machine.answered,
        utilisation_fraction=machine.busy_s / (device.concurrency * there_s) if there_s > 0.0 else 0.0,
        longest_queue=machine.longest_queue,
        active_j=math.nan if machine.unmeasured else machine.active_j,
        idle_j=None if device.idle_w is None else device.idle_w * there_s,
    )
