"""A running gateway's status as a world."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.client.types import ArmStatus, FleetStatus, NodeStatus, TaskBudget
from orchestrator.longrun import LongRun
from orchestrator.simulation.chance import Luck, service_ms
from orchestrator.simulation.from_gateway import world_of
from orchestrator.simulation.scenario import Arrivals, Question, answer
from orchestrator.study.errors import StudyError
from orchestrator.types import BudgetRequest, OnInfeasible, Provenance

ARM = ArmStatus(
    name="small:v1@desk",
    expert="small",
    variant="v1",
    task="digits",
    engine="onnx",
    quality_fraction=0.9,
    energy_provenance=Provenance.MEASURED,
    predicted_ms=20.0,
    bound_ms=60.0,
    predicted_energy_j=0.2,
    bound_energy_j=0.3,
    answered=10,
    failed=0,
    active=True,
)
NODE = NodeStatus(
    node="desk",
    state="healthy",
    device="a desktop",
    simulated=False,
    software_version="1",
    energy_method="rapl",
    energy_provenance=Provenance.MEASURED,
    running=0,
    queued=0,
    concurrency=2,
    seen_s=0.1,
    engine_restarts=0,
    arms=(ARM, replace(ARM, name="small:v2@desk", variant="v2", quality_fraction=0.8, predicted_energy_j=0.1)),
)
BUDGET = TaskBudget("", BudgetRequest(None, 500.0, OnInfeasible.ERROR, "eco"), "default", LongRun(0.3))


def a_status(*nodes: NodeStatus) -> FleetStatus:
    return FleetStatus("1", 1.0, 0.0, {}, nodes, ())


def test_healthy_nodes_become_devices_of_their_own() -> None:
    world = world_of(a_status(NODE, replace(NODE, node="gone", state="offline")), [BUDGET])
    assert [node.name for node in world.nodes] == ["desk"]
    assert world.nodes[0].device.concurrency == 2
    (task,) = world.tasks
    assert (task.name, task.budget.max_latency_ms, task.long_run) == ("digits", 500.0, LongRun(0.3))


def test_the_bound_is_the_promised_quantile_of_the_milliseconds() -> None:
    expert = world_of(a_status(NODE), [BUDGET]).nodes[0].device.experts[0]
    assert service_ms(expert, Luck(0.0, 0.0)) == pytest.approx(20.0)
    assert service_ms(expert, Luck(2.3263478740, 0.0)) == pytest.approx(60.0)


def test_such_a_node_can_be_added_and_two_variants_told_apart() -> None:
    world = world_of(a_status(NODE), [BUDGET])
    found = answer(Question(world, Arrivals(50.0, 10.0), add={"desk": 1}))
    assert found.changed is not None
    assert found.changed.nodes_total == 2
    assert found.base.all.answered_fraction > 0.9


def test_a_gateway_without_nodes_is_no_fleet() -> None:
    with pytest.raises(StudyError, match="no node of the gateway is healthy"):
        world_of(a_status(), [])
