"""Fleet files: what they mean, and how those that do not are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodes.energy.profile import PROFILES, load_profile
from orchestrator.longrun import LongRun
from orchestrator.simulation.fleet_file import read_fleet
from orchestrator.study.errors import StudyError
from orchestrator.types import BudgetRequest, OnInfeasible

SMALL = {"task": "digits", "quality": 0.9, "p50_ms": 40, "p95_ms": 60, "energy_j": 0.4}


def tree(**changes: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "devices": {"orin": {"experts": {"small": dict(SMALL)}}},
        "nodes": {"orin": 2},
    }
    return whole | changes


def written(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "fleet.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_whole_file(tmp_path: Path) -> None:
    device = {"concurrency": 2, "idle_w": 9, "slowdown": [1, 1.5], "experts": {"small": SMALL}}
    task = {"share": 2, "max_latency_ms": 300, "on_infeasible": "cheapest", "average_energy_j": 0.5, "deadline_s": 3}
    gateway = {"admission": {"max_running": 9}, "retries": {"enabled": False}, "hop_ms": 4}
    content = tree(devices={"orin": device}, tasks={"digits": task}, gateway=gateway)
    world = read_fleet(written(tmp_path, content))
    assert [node.name for node in world.nodes] == ["orin-1", "orin-2"]
    assert (world.nodes[0].device.concurrency, world.nodes[0].device.slowdown) == (2, (1.0, 1.5))
    (digits,) = world.tasks
    assert digits.budget == BudgetRequest(None, 300.0, OnInfeasible.CHEAPEST, None)
    assert (digits.long_run, digits.share, digits.deadline_s) == (LongRun(0.5), 2.0, 3.0)
    assert (world.gateway.max_running, world.gateway.max_attempts, world.gateway.hop_ms) == (9, 1, 4.0)


def test_json_is_read_too_and_tasks_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"
    path.write_text(json.dumps(tree()))
    assert [task.name for task in read_fleet(path).tasks] == ["digits"]


def test_recorded_milliseconds_take_the_place_of_quantiles(tmp_path: Path) -> None:
    expert = {"task": "digits", "quality": 0.9, "samples_ms": [30, 10, 20], "energy_j": 0.4}
    world = read_fleet(written(tmp_path, tree(devices={"orin": {"experts": {"small": expert}}})))
    (small,) = world.nodes[0].device.experts
    assert (small.samples_ms, small.p50_ms, small.p95_ms, small.mean_ms) == ((10.0, 20.0, 30.0), 20.0, 30.0, 20.0)


def test_joules_may_come_from_a_shipped_device_profile(tmp_path: Path) -> None:
    expert = {"task": "digits", "quality": 0.9, "p50_ms": 1, "p95_ms": 2, "macs": 10_000_000}
    device = {"profile": str(PROFILES / "rtx-4090.json"), "experts": {"small": expert}}
    (small,) = read_fleet(written(tmp_path, tree(devices={"orin": device}))).nodes[0].device.experts
    assert small.energy_j == pytest.approx(load_profile("rtx-4090").energy_j(10_000_000))


@pytest.mark.parametrize(
    ("changes", "path", "allowed"),
    [
        ({"nodes": {"orin": -1}}, "nodes.orin", "greater than or equal to 0"),
        ({"nodes": {"orin": 0}}, "nodes", "1 to 100000"),
        ({"nodes": {"nano": 1}}, "nodes.nano", "known are orin"),
        ({"tasks": {"chat": {}}}, "tasks.chat", "known are digits"),
        ({"nodse": {}}, "nodse", "no such key"),
        ({"tasks": {"digits": {"share": 0}}}, "tasks.digits.share", "greater than 0"),
        ({"tasks": {"digits": {"max_latency_ms": 0}}}, "tasks.digits.max_latency_ms", "greater than 0"),
        ({"gateway": {"admission": {"max_running": 0}}}, "gateway.admission.max_running", "greater than or equal to 1"),
    ],
)
def test_what_is_out_of_range_is_named_with_its_range(
    tmp_path: Path, changes: dict[str, Any], path: str, allowed: str
) -> None:
    with pytest.raises(StudyError) as caught:
        read_fleet(written(tmp_path, tree(**changes)))
    assert path in caught.value.why
    assert "fleet.yaml" in caught.value.why
    assert allowed in caught.value.why


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"quality": 1.5}, "devices.orin.experts.small.quality"),
        ({"p95_ms": 10}, "p95_ms must not be less than p50_ms"),
        ({"samples_ms": [1.0]}, "give p50_ms and p95_ms, or samples_ms"),
        ({"macs": 10}, "energy_j or macs"),
        ({"energy_j": None, "macs": 10}, "devices.orin.profile"),
        ({"p50_ms": "fast"}, "devices.orin.experts.small.p50_ms"),
    ],
)
def test_what_is_wrong_with_an_expert_is_said(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    expert = {name: value for name, value in (SMALL | changes).items() if value is not None}
    with pytest.raises(StudyError, match=says):
        read_fleet(written(tmp_path, tree(devices={"orin": {"experts": {"small": expert}}})))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{}", "j_per_mac: field required"),
        ("[", "not valid JSON"),
        ('{"j_per_mac": -1, "overhead_j": 0}', "j_per_mac: input should be greater than 0"),
    ],
)
def test_a_profile_that_cannot_be_used_is_named(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "odd.json").write_text(content)
    device = {"profile": "odd.json", "experts": {"small": SMALL}}
    with pytest.raises(StudyError, match=says):
        read_fleet(written(tmp_path, tree(devices={"orin": device})))


@pytest.mark.parametrize(("text", "says"), [("- 1", "must hold keys"), ("a: [", "not valid YAML")])
def test_what_is_no_fleet_file_is_said(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "fleet.yaml").write_text(text)
    with pytest.raises(StudyError, match=says):
        read_fleet(tmp_path / "fleet.yaml")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such file"):
        read_fleet(tmp_path / "absent.yaml")
