"""A model's way over real processes: pushed, fetched, checked, tried, served, replaced, removed; across restarts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodes.zoo.catalog import load_catalog
from orchestrator.client import Budget, Client
from tests.fakes.processes import Fleet, NodePlan
from tests.fakes.pushed import expert_folder

pytestmark = pytest.mark.system

PATIENT = Budget(max_latency_ms=5000.0)
NODE = "laptop"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def plan(folder: Path) -> NodePlan:
    flags = ("--profiling-s", "0.1", "--model-store", str(folder / "store"))
    return NodePlan(NODE, "laptop-cpu", ("digits-linear",), flags)


@pytest.fixture(scope="module")
def fleet(folder: Path, plan: NodePlan) -> Iterator[Fleet]:
    (folder / "fleet").mkdir()
    with Fleet(folder / "fleet") as fleet:
        yield fleet.start(plan)


@pytest.fixture
def client(fleet: Fleet) -> Iterator[Client]:
    with fleet.client() as client:
        yield client


def arms(fleet: Fleet) -> set[str]:
    status = fleet.status()
    return {arm.name for node in status.nodes for arm in node.arms} if status else set()


def asked(client: Client, count: int = 20) -> set[str]:
    held_out = load_catalog().held_out
    answers = [client.infer(held_out.inputs[n : n + 1], budget=PATIENT) for n in range(count)]
    return {attempt.arm for answer in answers for attempt in answer.routing.attempts}


def test_a_pushed_model_is_served_and_chosen_within_seconds(fleet: Fleet, client: Client, folder: Path) -> None:
    model = expert_folder(folder / "better", "better", of="digits-conv8")
    started_s = time.monotonic()
    done = fleet.cli("model", "push", str(model), "--to", NODE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"better@{NODE}: serving\n"
    assert time.monotonic() - started_s < 10.0
    assert f"better:onnx@{NODE}" in arms(fleet)
    held_out = load_catalog().held_out
    answer = client.infer(held_out.inputs[:1], expert="better", budget=PATIENT)
    assert answer.label == str(held_out.labels_n[0])
    # The plan follows, and the gate sends queries there by itself.
    fleet.wait_until(lambda: f"better:onnx@{NODE}" in asked(client), "queries go to the pushed model")
    listed = json.loads(fleet.cli("model", "list", "-o", "json").stdout)
    assert [(one["name"], one["on_nodes"][0]["state"]) for one in listed] == [("better", "serving")]
