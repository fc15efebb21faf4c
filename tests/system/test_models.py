"""A model's way over real processes: pushed, fetched, checked, tried, served, replaced, removed; across restarts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nodes.zoo.catalog import load_catalog
from orchestrator.artifacts import pushing
from orchestrator.artifacts.folder import read_folder
from orchestrator.artifacts.types import OnNode
from orchestrator.client import Budget, Client
from orchestrator.errors import EdgewiseError, RequestError
from tests.fakes import hostile_onnx
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
    flags = ("--profiling-s", "0.1", "--model-store", str(folder / "store"), "--model-run-s", "1")
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


def push(fleet: Fleet, folder: Path, *, task: str = "") -> OnNode:
    """As the command line does it; how the model stands on the node afterwards."""
    with fleet.client() as client:
        pushed = pushing.push(client, read_folder(folder, task=task), [NODE], sent=lambda _: None)
        settled = pushing.wait_served(client, pushed.name, timeout_s=20.0)
    assert settled is not None
    return settled.on_nodes[0]


def remove(fleet: Fleet, name: str) -> None:
    with fleet.client() as client:
        client.remove_model(name)


def states(fleet: Fleet) -> dict[str, OnNode]:
    with fleet.client() as client:
        return {model.name: model.on_nodes[0] for model in client.pushed_models()}


def test_a_pushed_model_is_served_and_chosen_within_seconds(fleet: Fleet, client: Client, folder: Path) -> None:
    model = expert_folder(folder / "better", "better", of="digits-conv8")
    started_s = time.monotonic()
    done = fleet.cli("models", "push", str(model), "--to", NODE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"better@{NODE}: serving\n"
    assert time.monotonic() - started_s < 10.0
    assert f"better:onnx@{NODE}" in arms(fleet)
    held_out = load_catalog().held_out
    answer = client.infer(held_out.inputs[:1], expert="better", budget=PATIENT)
    assert answer.label == str(held_out.labels_n[0])
    # The plan follows, and the gate sends queries there by itself.
    fleet.wait_until(lambda: f"better:onnx@{NODE}" in asked(client), "queries go to the pushed model")
    listed = json.loads(fleet.cli("models", "pushed", "-o", "json").stdout)
    assert [(one["name"], one["on_nodes"][0]["state"]) for one in listed] == [("better", "serving")]


def test_a_good_replacement_takes_over_and_a_bad_one_leaves_the_old(fleet: Fleet, folder: Path) -> None:
    model = expert_folder(folder / "better", "better", of="digits-conv8")
    (model / "model.onnx").write_bytes(hostile_onnx.foreign_operator())
    done = fleet.cli("models", "push", str(model), "--to", NODE)
    assert done.returncode == 2
    assert "OP_NOT_ALLOWED" in done.stdout
    assert f"better:onnx@{NODE}" in arms(fleet)
    assert push(fleet, expert_folder(folder / "better", "better", of="digits-lenet5")).state == "serving"
    with fleet.client() as client:
        arm = next(arm for node in client.status().nodes for arm in node.arms if arm.expert == "better")
    assert arm.quality_fraction == load_catalog().expert("digits-lenet5").quality.accuracy_fraction


def test_the_shipped_experts_and_tasks_are_not_to_be_replaced(fleet: Fleet, folder: Path) -> None:
    assert push(fleet, expert_folder(folder / "taken", "digits-linear")).reason == "MODEL_EXISTS"
    other = expert_folder(folder / "other", "other", evidence=False)
    assert push(fleet, other).state == "serving"
    assert push(fleet, other, task="letters").reason == "TASK_NOT_FOUND"
    for name in ("digits-linear", "other"):
        remove(fleet, name)
    with pytest.raises(RequestError) as error:
        remove(fleet, "other")
    assert error.value.reason == "MODEL_NOT_FOUND"
    with fleet.client() as client, pytest.raises(RequestError) as error:
        pushing.push(client, read_folder(other), ["nobody"], sent=lambda _: None)
    assert error.value.reason == "NODE_NOT_FOUND"


def test_it_survives_restarts_of_both_sides(fleet: Fleet, plan: NodePlan) -> None:
    fleet.agents[NODE].kill()
    fleet.start_agent(plan)
    fleet.wait_ready()
    assert f"better:onnx@{NODE}" in arms(fleet)
    assert fleet.gateway is not None
    fleet.gateway.kill()
    fleet.start_gateway()
    fleet.wait_ready()
    fleet.wait_until(lambda: states(fleet)["better"].state == "serving", "the gateway knows that it is served")


def test_a_transfer_goes_on_after_the_gateway_was_killed(fleet: Fleet, folder: Path) -> None:
    model = expert_folder(folder / "large", "large", evidence=False)
    weights = np.random.default_rng(0).random((64, 150_000), np.float32)
    (model / "model.onnx").write_bytes(hostile_onnx.with_ballast(weights))
    pusher = threading.Thread(target=_push_and_forget, args=(fleet, model))
    pusher.start()
    drafts = folder / "store" / "drafts"

    def arrived() -> int:
        return max((draft.stat().st_size for draft in drafts.glob("*")), default=0)

    fleet.wait_until(lambda: arrived() > 1 << 20, "a part has arrived")
    assert fleet.gateway is not None
    fleet.gateway.kill()
    part = arrived()
    assert 0 < part < weights.nbytes
    fleet.start_gateway()
    fleet.wait_until(lambda: arrived() == 0 and f"large:onnx@{NODE}" in arms(fleet), "the rest has come")
    pusher.join(30)
    remove(fleet, "large")


def _push_and_forget(fleet: Fleet, folder: Path) -> None:
    with fleet.client() as client:
        pushing.push(client, read_folder(folder), [NODE], sent=lambda _: None)


def test_a_model_that_hangs_is_put_out_and_nothing_else_is(fleet: Fleet, client: Client, folder: Path) -> None:
    model = expert_folder(folder / "moody", "moody", evidence=False)
    (model / "model.onnx").write_bytes(hostile_onnx.loops_on_bright())
    assert push(fleet, model).state == "serving"
    pid, picture = fleet.agents[NODE].pid, load_catalog().held_out.inputs[:1]
    assert client.infer(picture, expert="moody", budget=PATIENT).label
    for _ in range(2):
        fleet.wait_until(lambda: _answers(client, "moody"), "its process is back")
        with pytest.raises(EdgewiseError) as error:
            client.infer(picture * 9.0, expert="moody", budget=PATIENT)
        assert error.value.reason in ("ATTEMPTS_FAILED", "EXPERT_NOT_FOUND")
        assert client.infer(picture, expert="digits-linear", budget=PATIENT).label
    fleet.wait_until(lambda: f"moody:onnx@{NODE}" not in arms(fleet), "the arm is gone")
    assert states(fleet)["moody"].reason == "MODEL_FAILED"
    assert (fleet.agents[NODE].pid, fleet.agents[NODE].alive) == (pid, True)
    # The other guest came back with its process.
    fleet.wait_until(lambda: _answers(client, "better"), "the other pushed model answers")
    remove(fleet, "moody")


def _answers(client: Client, expert: str) -> bool:
    try:
        return bool(client.infer(load_catalog().held_out.inputs[:1], expert=expert, budget=PATIENT).label)
    except EdgewiseError:
        return False


def test_a_removed_model_is_offered_no_longer(fleet: Fleet) -> None:
    assert fleet.cli("models", "remove", "better").returncode == 0
    fleet.wait_until(lambda: arms(fleet) == {f"digits-linear:onnx-fp32@{NODE}"}, "only its own arm is left")
    assert json.loads(fleet.cli("models", "pushed", "-o", "json").stdout) == []
