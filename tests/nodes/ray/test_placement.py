"""Ray behind the contract, and the lines that the operator's side speaks; with a fake of Ray, and with Ray itself."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from nodes.ray import placement as module
from nodes.ray.control import Control, answer, serve
from nodes.ray.errors import AgentNotPlaced, ClusterLost, RayMissing
from nodes.ray.placement import RayPlacement, require_ray
from nodes.ray.spec import AgentSpec, order_for, parse_spec
from tests.fakes.ray_module import FakeRay
from tests.nodes.ray.conformance import check


class Idle:
    """A keeper without an agent."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        self.order = order
        self.admitted: list[tuple[str, str]] = []

    def report(self) -> dict[str, Any]:
        fixed = {"version": "1", "state": "running", "host": "h", "keeper_pid": 1, "agent_pid": 2, "starts": 1}
        revision = self.order["revision"]
        return {"name": self.order["name"], "revision": revision, "last_exit": None, "said": "", **fixed}

    def admit(self, url: str, token: str) -> None:
        self.admitted.append((url, token))

    def drain(self, within_s: float) -> bool:
        return True


def at_once(holds: Callable[[], bool]) -> None:
    assert holds()


@pytest.fixture
def ray() -> FakeRay:
    return FakeRay(stand_in=Idle)


def test_the_fake_conforms(ray: FakeRay) -> None:
    check(RayPlacement(ray, "edgewise"), at_once)


def test_actors_outlive_the_command_are_restarted_and_go_where_the_labels_are(ray: FakeRay) -> None:
    agent = AgentSpec(name="a", num_cpus=2, labels={"edgewise.device": "orin"}, resources={"npu": 1})
    RayPlacement(ray, "edgewise").place(agent, order_for(agent, "g:1", "1"))
    options = ray.actors[0].options
    assert (options["lifetime"], options["max_restarts"], options["max_task_retries"]) == ("detached", -1, 0)
    assert (options["label_selector"], options["resources"]) == ({"edgewise.device": "orin"}, {"npu": 1})
    assert options["num_cpus"] == 2


def test_a_keeper_that_does_not_answer_is_listed_without_report(ray: FakeRay) -> None:
    placement = RayPlacement(ray, "edgewise")
    placement.place(AgentSpec(name="a"), order_for(AgentSpec(name="a"), "g:1", "1"))
    ray.actors[0].silent = True
    (one,) = placement.agents(timeout_s=0.1)
    assert (one.actor, one.report) == ("RESTARTING", None)
    with pytest.raises(AgentNotPlaced, match="does not answer"):
        placement.drain("a", within_s=0.1)


def test_names_of_other_namespaces_are_not_ours(ray: FakeRay) -> None:
    RayPlacement(ray, "other").place(AgentSpec(name="a"), order_for(AgentSpec(name="a"), "g:1", "1"))
    assert RayPlacement(ray, "edgewise").agents(timeout_s=0.1) == []


def control(ray: FakeRay) -> Control:
    fleet = parse_spec({"agents": [{"name": "a"}, {"name": "b"}]})
    return Control(fleet, RayPlacement(ray, "edgewise"))


def test_orders_are_answered_line_by_line(ray: FakeRay) -> None:
    orders: list[dict[str, Any]] = [{"do": "wanted", "gateway": "g:1"}, {"do": "place", "name": "a", "gateway": "g:1"}]
    orders += [{"do": "agents", "timeout_s": 1}, {"do": "admit", "name": "a", "url": "u", "token": "t"}]
    orders += [{"do": "drain", "name": "b", "for_s": 1}, {"do": "remove", "name": "a"}, {"do": "dance"}]
    answers = io.StringIO()
    serve(lambda: control(ray), io.StringIO("\n".join(json.dumps(order) for order in orders)), answers)
    told = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert [one["name"] for one in told[1]["value"]] == ["a", "b"]
    assert told[3]["value"][0]["report"]["revision"] == told[1]["value"][0]["revision"]
    assert ray.actors[0].instance.admitted == [("u", "t")]
    assert told[5]["exit_code"] == 4
    assert "there is no agent b" in told[5]["error"]
    assert "dance" in told[7]["error"]


def test_without_a_cluster_the_first_answer_says_why() -> None:
    def fails() -> Control:
        raise ClusterLost("nobody answers", "start it")

    answers = io.StringIO()
    with pytest.raises(SystemExit):
        serve(fails, io.StringIO(), answers)
    assert json.loads(answers.getvalue()) == {"error": "nobody answers; start it", "exit_code": 6}


@pytest.mark.parametrize("line", ["", "[]", "{}", "nonsense", '{"do": "__init__"}', '{"do": 3}'])
def test_lines_that_are_no_orders_are_refused(ray: FakeRay, line: str) -> None:
    assert answer(control(ray), line)["exit_code"] == 2


def test_a_missing_extra_says_which_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(RayMissing, match=r"edgewise\[ray\]"):
        require_ray()


@pytest.mark.parametrize(("found", "fits"), [("2.53.9", False), ("2.54.0", True), ("2.60.0", True), ("3.0.0rc1", True)])
def test_a_ray_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch, found: str, fits: bool) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    monkeypatch.setattr(module, "version", lambda name: found)
    if fits:
        require_ray()
        return
    with pytest.raises(RayMissing, match="older than"):
        require_ray()


def test_nothing_imports_ray_before_a_cluster_is_spoken_to() -> None:
    code = "import sys, nodes.cli, nodes.ray.placement, orchestrator.cli.ray; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


REAL = """
import sys, time
from pathlib import Path
from nodes.ray import head
from nodes.ray.placement import connect
from nodes.ray.spec import ClusterSpec
from tests.nodes.ray.conformance import check
def wait(holds):
    end_s = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.2)
cluster = ClusterSpec(folder=Path(sys.argv[1]), port=int(sys.argv[2]), num_cpus=1)
try:
    head.ensure_head(cluster, print)
    check(connect(cluster), wait)
finally:
    head.stop_head(cluster)
print("conforms", flush=True)
"""


@pytest.mark.skipif(find_spec("ray") is None, reason="NOT RUN: Ray itself; install the extra ray")
@pytest.mark.skipif(
    os.environ.get("EDGEWISE_TEST_RAY") != "1", reason="NOT RUN: Ray itself; EDGEWISE_TEST_RAY=1 starts one"
)
def test_ray_itself_conforms() -> None:
    import tempfile

    from tests.fakes.ports import free_port
    from tests.fakes.processes import REPOSITORY

    with tempfile.TemporaryDirectory(prefix="er-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-c", REAL, str(Path(folder)), str(free_port())]
        started_s = time.monotonic()
        ended = subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=REPOSITORY)
    assert "conforms" in ended.stdout, (ended.stderr, time.monotonic() - started_s)
