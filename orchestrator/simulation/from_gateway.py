"""The fleet of a running gateway as a world: its arms as it predicts them now."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from orchestrator.client.types import ArmStatus, FleetStatus, NodeStatus, TaskBudget
from orchestrator.simulation.world import Z95, Device, Expert, GatewayTraits, Node, TaskClass, World
from orchestrator.study.errors import StudyError
from orchestrator.types import Provenance

# What the gateway told nobody: its default promise, of which an arm's bound is the quantile.
PROMISE_QUANTILE = 0.99


def world_of(status: FleetStatus, budgets: Sequence[TaskBudget]) -> World:
    """A world of the nodes that are healthy, each a device of its own, and of what requests may spend there.

    Milliseconds are lognormal with the predicted median and with the bound as their 99 % quantile.

    Raises:
        StudyError: No node is healthy.
    """
    devices = {node.node: _device(node) for node in status.nodes if node.state == "healthy" and node.arms}
    if not devices:
        raise StudyError("no node of the gateway is healthy", "start one with `edgewise node run`", what="no fleet")
    nodes = tuple(Node(name, device) for name, device in devices.items())
    served = sorted({expert.task for device in devices.values() for expert in device.experts})
    by_task = {entry.task: entry for entry in budgets}
    return World(devices, nodes, tuple(_task(task, by_task) for task in served), GatewayTraits(hop_ms=0.0))


def _task(name: str, by_task: dict[str, TaskBudget]) -> TaskClass:
    entry = by_task.get(name) or by_task.get("")
    return TaskClass(name) if entry is None else TaskClass(name, budget=entry.budget, long_run=entry.long_run)


def _device(node: NodeStatus) -> Device:
    experts = tuple(_expert(arm) for arm in node.arms if arm.predicted_ms > 0.0)
    return Device(node.node, experts, max(1, node.concurrency))


def _expert(arm: ArmStatus) -> Expert:
    quantile = NormalDist().inv_cdf(PROMISE_QUANTILE)
    sigma = max(0.0, math.log(max(arm.bound_ms, arm.predicted_ms) / arm.predicted_ms) / quantile)
    known = arm.energy_provenance is not Provenance.UNMEASURED and math.isfinite(arm.predicted_energy_j)
    return Expert(
        name=arm.expert,
        variant=arm.variant,
        task=arm.task,
        quality_fraction=arm.quality_fraction,
        p50_ms=arm.predicted_ms,
        p95_ms=arm.predicted_ms * math.exp(Z95 * sigma),
        energy_j=arm.predicted_energy_j if known else None,
    )
