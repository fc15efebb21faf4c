"""What a gateway says of two nodes and one task: the canned part of its status."""

from __future__ import annotations

from edgewise.v1 import admin_pb2, common_pb2, fleet_pb2

MODELLED = common_pb2.PROVENANCE_MODELLED

PACING = common_pb2.Pacing(
    budget=common_pb2.LongRunBudget(average_energy_j=2e-3),
    status="infeasible",
    price_per_j=5.0,
    burn_ratio=1.004,
    left_j=0.25,
    cheapest_j=3e-3,
    requests=1200,
)


def node_status(name: str) -> admin_pb2.NodeStatus:
    device = "jetson-agx-orin" if name == "orin-1" else "rtx-4090"
    return admin_pb2.NodeStatus(
        node=name,
        state="healthy",
        device=device,
        simulated=True,
        software_version="0.1.0",
        energy_method=f"profile:{device}",
        energy_provenance=MODELLED,
        running=1,
        concurrency=2,
        seen_s=0.42,
        arms=[arm_status("digits-mlp", 1e-7, 0.979), arm_status("digits-conv8", 1.7e-6, 0.988)],
    )


def arm_status(expert: str, energy_j: float, quality: float) -> admin_pb2.ArmStatus:
    return admin_pb2.ArmStatus(
        arm=fleet_pb2.Arm(
            expert=expert,
            variant="onnx-fp32",
            task="digits",
            engine="onnx",
            quality_fraction=quality,
            quality_samples=360,
            energy=fleet_pb2.EnergyProfile(mean_j=energy_j, provenance=MODELLED),
        ),
        predicted_ms=1.2,
        bound_ms=2.9,
        predicted_energy_j=energy_j,
        bound_energy_j=2.1 * energy_j,
        answered=59,
        active=True,
    )


def task_status() -> admin_pb2.TaskStatus:
    return admin_pb2.TaskStatus(
        task="digits",
        input=common_pb2.TensorSpec(name="image", dtype=common_pb2.DTYPE_FLOAT32, shape=[-1, 8, 8]),
        labels=[str(digit) for digit in range(10)],
        plan_id="plan-7",
        certificate=common_pb2.Certificate(status="optimal", explored=31),
        active_arms=["digits-mlp:onnx-fp32@orin-1", "digits-conv8:onnx-fp32@orin-1"],
        prices=[
            admin_pb2.ProfilePrice(profile="eco", price_per_j=9e3, expected_quality=0.981, expected_energy_j=2e-7),
            admin_pb2.ProfilePrice(profile="best", price_per_j=0, expected_quality=0.994, expected_energy_j=4e-5),
        ],
        pacing=PACING,
        guard=common_pb2.Guard(in_force="gate", evidence_fraction=0.2, mean_difference=0.015, observations=40, stays=1),
    )
