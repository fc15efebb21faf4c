"""The state of nodes and tasks as messages."""

from __future__ import annotations

import asyncio
import time

from edgewise.v1 import admin_pb2, common_pb2, fleet_pb2, gateway_pb2
from orchestrator.fleet.arms import ArmState
from orchestrator.gateway.service import Service
from orchestrator.types import Arm, EnergySource, Provenance, Residency, Task
from orchestrator.wire import PROVENANCE_NUMBERS, encode_certificate, encode_guard, encode_pacing, encode_spec

# Nodes that are told of in one go; requests would wait for a thousand.
AT_ONCE = 16


async def encode_nodes(service: Service) -> list[admin_pb2.NodeStatus]:
    """All nodes by name, each as of its moment: requests go on in between."""
    found: list[admin_pb2.NodeStatus] = []
    for name in sorted(service.fleet.known):
        if found and len(found) % AT_ONCE == 0:
            await asyncio.sleep(0.0)
        found.append(encode_node(service, name))
    return found


def encode_node(service: Service, name: str) -> admin_pb2.NodeStatus:
    """One node, connected or known from before."""
    fleet = service.fleet
    hello, session = fleet.known[name], fleet.sessions.get(name)
    sleeper = fleet.dormitory.sleepers.get(name)
    states = [fleet.board.states[index] for index in fleet.board.nodes[name].arms]
    return admin_pb2.NodeStatus(
        node=name,
        state=fleet.state(name).value,
        device=hello.device,
        simulated=hello.simulated,
        software_version=hello.software_version,
        energy_method=hello.energy_method,
        energy_provenance=PROVENANCE_NUMBERS[hello.energy_provenance],
        running=session.running if session else 0,
        queued=session.queued if session else 0,
        concurrency=hello.concurrency,
        seen_s=time.monotonic() - session.seen_s if session else 0.0,
        engine_restarts=session.engine_restarts if session else 0,
        arms=[_encode_arm_status(service, state) for state in states],
        energy_source=_encode_source(hello.energy_source),
        temperature_c=session.temperature_c if session else None,
        throttles=session.throttles if session else (),
        asleep_s=fleet.dormitory.clock() - sleeper.asleep_s if sleeper else None,
    )


def _encode_source(source: EnergySource) -> fleet_pb2.EnergySource:
    return fleet_pb2.EnergySource(
        rate_hz=source.rate_hz,
        why=source.why,
        problem=source.problem,
        cure=source.cure,
        profile_digest=source.profile_digest,
    )


def _encode_arm_status(service: Service, state: ArmState) -> admin_pb2.ArmStatus:
    board, n = service.fleet.board, state.index
    standing = service.planner.standing(state.arm.task)
    active = None if standing is None else standing.plan.active
    return admin_pb2.ArmStatus(
        arm=_encode_arm(state.arm),
        predicted_ms=board.service_ms_n[n] + board.wait_ms_n[n],
        bound_ms=board.service_bound_ms_n[n] + board.wait_ms_n[n],
        predicted_energy_j=board.energy_j_n[n],
        bound_energy_j=board.energy_bound_j_n[n],
        answered=state.answered,
        failed=state.failed,
        active=bool(board.available_n[n]) and (active is None or state.arm.name in active),
    )


def _encode_arm(arm: Arm) -> fleet_pb2.Arm:
    known = arm.energy.provenance is not Provenance.UNMEASURED
    return fleet_pb2.Arm(
        expert=arm.expert,
        variant=arm.variant,
        task=arm.task,
        engine=arm.engine,
        model_digest=arm.model_digest,
        macs=arm.macs,
        memory_bytes=arm.memory_bytes,
        latency=fleet_pb2.LatencyProfile(
            p50_ms=arm.p50_ms, p95_ms=arm.p95_ms, provenance=PROVENANCE_NUMBERS[arm.latency_provenance]
        ),
        energy=fleet_pb2.EnergyProfile(
            mean_j=arm.energy.energy_j if known else 0.0,
            uncertainty_j=arm.energy.uncertainty_j,
            provenance=PROVENANCE_NUMBERS[arm.energy.provenance],
            method=arm.energy.method,
        ),
        quality_fraction=arm.quality_fraction,
        quality_samples=arm.quality_samples,
        evidence_digest=arm.evidence_digest,
        residency=None if arm.residency is None else _encode_residency(arm.residency),
    )


def _encode_residency(residency: Residency) -> fleet_pb2.Residency:
    return fleet_pb2.Residency(
        state=residency.state,
        pinned=residency.pinned,
        load_ms=residency.load_ms,
        load_energy_j=residency.load_j,
        progress_fraction=residency.progress_fraction,
        problem=residency.problem,
    )


def encode_task_info(task: Task) -> gateway_pb2.TaskInfo:
    """What a client must know of a task to ask for it."""
    spec = None if task.text else encode_spec(task.input)
    return gateway_pb2.TaskInfo(task=task.name, input=spec, labels=task.labels, text=task.text)


def encode_task(service: Service, task: Task) -> admin_pb2.TaskStatus:
    """One task with the plan in force."""
    standing = service.planner.standing(task.name)
    pacing = encode_pacing(service.pacing.record(task.name))
    guard = encode_guard(service.probing.record(task.name))
    status = admin_pb2.TaskStatus(task=task.name, labels=task.labels, pacing=pacing, guard=guard)
    status.gate_problem = service.planner.gates.problem(task.name)
    if not task.text:
        status.input.CopyFrom(encode_spec(task.input))
    if standing is None:
        status.certificate.CopyFrom(common_pb2.Certificate(status="none"))
        return status
    plan = standing.plan
    status.plan_id = plan.plan_id
    status.gate_sha256 = plan.gate
    status.certificate.CopyFrom(encode_certificate(plan.certificate))
    status.active_arms.extend(sorted(plan.active or ()))
    for name, price in plan.model.prices.items():
        status.prices.add(
            profile=name,
            price_per_j=price.price_per_j,
            expected_quality=price.expected_quality,
            expected_energy_j=price.expected_energy_j,
        )
    return status
