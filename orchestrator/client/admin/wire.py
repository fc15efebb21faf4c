"""What operators ask and are told, as protobuf messages and as the client's own types."""

from __future__ import annotations

import numpy as np

from edgewise.v1 import admin_pb2, common_pb2, fleet_pb2
from orchestrator.client import types as own
from orchestrator.client.wire import Call, read_certificate
from orchestrator.residency import Residency
from orchestrator.wire import (
    PROVENANCES,
    decode_budget,
    decode_long_run,
    decode_pacing,
    decode_spec,
    encode_budget,
    encode_long_run,
)

ADMIN = "edgewise.v1.Admin"
# A task of texts takes no tensor.
NO_INPUT = own.TensorSpec("", np.dtype("float32"), ())


def status() -> Call[own.FleetStatus]:
    """The call that shows nodes, tasks and totals."""
    return Call(f"/{ADMIN}/GetStatus", admin_pb2.GetStatusRequest(), admin_pb2.GetStatusResponse, _fleet_status)


def budgets() -> Call[tuple[own.TaskBudget, ...]]:
    """The call that lists the budgets in force."""
    return Call(
        f"/{ADMIN}/GetBudgets",
        admin_pb2.GetBudgetsRequest(),
        admin_pb2.GetBudgetsResponse,
        lambda reply: tuple(_task_budget(entry) for entry in reply.budgets),
    )


def set_budget(task: str, budget: own.Budget | None, long_run: own.LongRun | None = None) -> Call[own.TaskBudget]:
    """The call that sets the budget of a task ("" for the default); nothing goes back to the configuration."""
    request = admin_pb2.SetBudgetRequest(task=task, reset=budget is None and long_run is None)
    if budget is not None:
        request.budget.CopyFrom(encode_budget(budget))
    if long_run is not None:
        request.long_run.CopyFrom(encode_long_run(long_run))
    return Call(
        f"/{ADMIN}/SetBudget",
        request,
        admin_pb2.SetBudgetResponse,
        lambda reply: _task_budget(reply.budget),
    )


def drain_node(node: str) -> Call[str]:
    """The call that stops new work for a node; its reply is the node's state."""
    return Call(
        f"/{ADMIN}/DrainNode",
        admin_pb2.DrainNodeRequest(node=node),
        admin_pb2.DrainNodeResponse,
        lambda reply: str(reply.state),
    )


def manage_model(expert: str, verb: str, *, node: str = "", ttl_s: float = 0.0) -> Call[tuple[str, ...]]:
    """The call that loads, unloads or pins an expert; its reply are the arms that were told."""
    return Call(
        f"/{ADMIN}/ManageModel",
        admin_pb2.ManageModelRequest(expert=expert, verb=verb, node=node, ttl_s=ttl_s),
        admin_pb2.ManageModelResponse,
        lambda reply: tuple(reply.arms),
    )


def reload_config() -> Call[tuple[own.ChangedKey, ...]]:
    """The call that has the gateway read its configuration again; its reply is what has changed."""
    return Call(
        f"/{ADMIN}/ReloadConfig",
        admin_pb2.ReloadConfigRequest(),
        admin_pb2.ReloadConfigResponse,
        lambda reply: tuple(own.ChangedKey(entry.key, entry.before, entry.after) for entry in reply.changed),
    )


def sleep_node(node: str) -> Call[str]:
    """The call that puts a node to sleep; its reply is the node's state."""
    return Call(
        f"/{ADMIN}/SleepNode",
        admin_pb2.SleepNodeRequest(node=node),
        admin_pb2.SleepNodeResponse,
        lambda reply: str(reply.state),
    )


def wake_node(node: str) -> Call[str]:
    """The call that wakes a node; its reply is the node's state."""
    return Call(
        f"/{ADMIN}/WakeNode",
        admin_pb2.WakeNodeRequest(node=node),
        admin_pb2.WakeNodeResponse,
        lambda reply: str(reply.state),
    )


def _fleet_status(reply: admin_pb2.GetStatusResponse) -> own.FleetStatus:
    return own.FleetStatus(
        version=reply.version,
        uptime_s=reply.uptime_s,
        energy_j=reply.energy_j,
        outcomes={entry.outcome: entry.requests for entry in reply.outcomes},
        nodes=tuple(_node(entry) for entry in reply.nodes),
        tasks=tuple(_task(entry) for entry in reply.tasks),
    )


def _node(message: admin_pb2.NodeStatus) -> own.NodeStatus:
    return own.NodeStatus(
        node=message.node,
        state=message.state,
        device=message.device,
        simulated=message.simulated,
        software_version=message.software_version,
        energy_method=message.energy_method,
        energy_provenance=_provenance(message.energy_provenance),
        running=message.running,
        queued=message.queued,
        concurrency=message.concurrency,
        seen_s=message.seen_s,
        engine_restarts=message.engine_restarts,
        arms=tuple(_arm(entry, message.node) for entry in message.arms),
        energy_source=_source(message.energy_source),
        temperature_c=message.temperature_c if message.HasField("temperature_c") else None,
        throttles=tuple(message.throttles),
        asleep_s=message.asleep_s if message.HasField("asleep_s") else None,
    )


def _source(message: fleet_pb2.EnergySource) -> own.EnergySource:
    return own.EnergySource(message.rate_hz, message.why, message.problem, message.cure, message.profile_digest)


def _arm(message: admin_pb2.ArmStatus, node: str) -> own.ArmStatus:
    arm: fleet_pb2.Arm = message.arm
    return own.ArmStatus(
        name=f"{arm.expert}:{arm.variant}@{node}",
        expert=arm.expert,
        variant=arm.variant,
        task=arm.task,
        engine=arm.engine,
        quality_fraction=arm.quality_fraction,
        energy_provenance=_provenance(arm.energy.provenance),
        predicted_ms=message.predicted_ms,
        bound_ms=message.bound_ms,
        predicted_energy_j=message.predicted_energy_j,
        bound_energy_j=message.bound_energy_j,
        answered=message.answered,
        failed=message.failed,
        active=message.active,
        residency=_residency(arm.residency) if arm.HasField("residency") else None,
    )


def _residency(message: fleet_pb2.Residency) -> Residency:
    return Residency(
        state=message.state,
        pinned=message.pinned,
        load_ms=message.load_ms,
        load_j=message.load_energy_j if message.HasField("load_energy_j") else None,
        progress_fraction=message.progress_fraction if message.HasField("progress_fraction") else None,
        problem=message.problem,
    )


def _provenance(number: common_pb2.Provenance.ValueType) -> own.Provenance:
    return PROVENANCES.get(number, own.Provenance.UNMEASURED)


def _task(message: admin_pb2.TaskStatus) -> own.TaskStatus:
    return own.TaskStatus(
        task=message.task,
        input=decode_spec(message.input, "input") if message.HasField("input") else NO_INPUT,
        labels=tuple(message.labels),
        plan_id=message.plan_id,
        gate_sha256=message.gate_sha256,
        gate_problem=message.gate_problem,
        certificate=read_certificate(message.certificate),
        active_arms=tuple(message.active_arms),
        prices=tuple(_price(entry) for entry in message.prices),
        pacing=decode_pacing(message.pacing) if message.HasField("pacing") else None,
        guard=_guard(message.guard) if message.HasField("guard") else None,
    )


def _guard(message: common_pb2.Guard) -> own.GuardRecord:
    return own.GuardRecord(
        in_force=message.in_force,
        evidence_fraction=message.evidence_fraction,
        mean_difference=message.mean_difference,
        observations=message.observations,
        stays=message.stays,
    )


def _price(message: admin_pb2.ProfilePrice) -> own.ProfilePrice:
    return own.ProfilePrice(
        profile=message.profile,
        price_per_j=message.price_per_j,
        expected_quality_fraction=message.expected_quality,
        expected_energy_j=message.expected_energy_j,
    )


def _task_budget(message: admin_pb2.TaskBudget) -> own.TaskBudget:
    return own.TaskBudget(
        message.task,
        decode_budget(message.budget),
        message.origin,
        decode_long_run(message.long_run),
        decode_pacing(message.pacing) if message.HasField("pacing") else None,
    )
