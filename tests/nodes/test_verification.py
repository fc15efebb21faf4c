"""What the scripts that verify engines on a board do, from the script to a profile that an agent takes.

On a GPU it was not run by us: `tensorrt_rtx` is the stand-in here. ONNX Runtime's own forms are real.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.cli import main
from nodes.energy.profile import load_profile
from nodes.errors import ExitCode
from nodes.verification import Agreement
from tests.fakes.gpu import setup
from tests.fakes.processes import EDGEWISE

DEPLOY = Path(__file__).parents[2] / "deploy"
SCRIPTS = sorted(DEPLOY.glob("verify-*.sh"))
# Ten watts at rest, thirty from a second later on: what is not idle goes to the work.
TRACE = "time_s,power_w\n0,10\n0.01,10\n0.02,30\n600,30\n"
QUICK = ("--experts", "digits-mlp,digits-wide", "--batches", "1,16", "--seconds", "0.05")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with a trace of joules, and an environment with a GPU's stand-in and an `edgewise` in it."""
    if setup.compiler() is None:
        pytest.skip(setup.NEEDS)
    folder = tmp_path_factory.mktemp("verify")
    (folder / "trace.csv").write_text(TRACE)
    command = folder / "edgewise"
    command.write_text(f'#!/bin/sh\nexec {shlex.join(EDGEWISE)} "$@"\n')
    command.chmod(0o755)
    found = dict(os.environ)
    setup.install(folder, found.__setitem__)
    root = str(DEPLOY.parent)
    found |= {"PYTHONPATH": f"{folder}:{root}:{root}/proto", "EDGEWISE": str(command)}
    found |= {"XDG_DATA_HOME": str(folder / "data"), "EDGEWISE_GPU_PYTHON": sys.executable}
    return folder, found


def replay(folder: Path) -> tuple[str, ...]:
    return ("--energy", "replay", "--energy-trace", str(folder / "trace.csv"), "--compile-cache", str(folder / "cache"))


def verified(
    script: Path, folder: Path, environment: Mapping[str, str], *more: str
) -> subprocess.CompletedProcess[str]:
    command = ("sh", str(script), *replay(folder), *QUICK, *more)
    return subprocess.run(command, cwd=folder, env=dict(environment), capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: str(script.stem))
def test_a_script_writes_one_file_that_the_import_takes(machine: tuple[Path, dict[str, str]], script: Path) -> None:
    folder, environment = machine
    done = verified(script, folder, environment)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob(f"edgewise-{script.stem.removeprefix('verify-')}-*.json")
    told = json.loads(file.read_text())
    assert told["runtime"]["capability"] == "8.9"
    assert [(one["inputs"], one["ok"], one["allowed"]) for one in told["verified"]] == [(100, True, 1e-2)] * 2
    assert 0.0 < max(one["largest_difference"] for one in told["verified"]) <= 1e-2, "half precision differs"
    assert main(["profile", "import", str(file), "--name", script.stem, "--to", str(folder / "p.json")]) == 0
    profile = load_profile(folder / "p.json")
    assert profile.simulated, "replayed joules are nobody's measurement"
    assert len(profile.source.rows) == 4, "two engines at two sizes, and not the models that they were compared with"


def test_there_is_one_for_each_kind_of_device() -> None:
    assert [script.stem for script in SCRIPTS] == ["verify-orin", "verify-rtx"]


def test_without_a_gpu_a_script_says_so(machine: tuple[Path, dict[str, str]]) -> None:
    folder, environment = machine
    done = verified(SCRIPTS[1], folder, {**environment, "FAKE_GPU_GONE": "1"}, "--to", str(folder / "none.json"))
    assert (done.returncode, "no CUDA-capable device" in done.stderr) == (ExitCode.ENGINE_FAILED, True), done.stderr
    assert not (folder / "none.json").exists()


def test_without_edgewise_a_script_says_where_it_looked(tmp_path: Path) -> None:
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(["sh", str(SCRIPTS[0])], env=bare, capture_output=True, text=True)
    assert (done.returncode, "EDGEWISE" in done.stderr) == (4, True)


def test_answers_that_differ_are_not_ok() -> None:
    assert Agreement("a:rtx-fp16", "a:onnx-fp32", 100, 0.009, 1e-2).ok
    assert not Agreement("a:rtx-fp16", "a:onnx-fp32", 100, 0.011, 1e-2).ok
    assert not Agreement("a:rtx-fp16", "a:onnx-fp32", 100, float("inf"), 1e-2).ok
    assert Agreement("a:ort-int8", "a:onnx-fp32", 100, 0.4, None).ok


@pytest.mark.parametrize("form", ["auto", "ort,int8", "digits-mlp:ort", "toaster"])
def test_a_form_that_is_none_is_refused(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--form", form]) == ExitCode.CONFIG
    assert "--" in capsys.readouterr().err


# ---- what the import takes


def document(**changes: Any) -> dict[str, Any]:
    """A survey of three arms at 2 mJ a run and 1 nJ a multiply-accumulate, idle at 5 W."""
    points = [
        {
            "arm": arm,
            "batch": batch,
            "concurrency": 1,
            "macs": macs,
            "runs": 9,
            "p50_ms": 4.0,
            "p95_ms": 5.0,
            "energy_j": 2e-3 + batch * macs * 1e-9,
            "uncertainty_j": 0.0,
            "idle_j": 0.02,
            "provenance": "measured",
            "share": "whole",
        }
        for arm, macs in (("small:rtx-fp16", 10_000), ("large:rtx-fp16", 5_000_000), ("large:onnx-fp32", 5_000_000))
        for batch in (1, 16)
    ]
    energy = {"method": "nvml", "provenance": "measured"}
    return {"format": 1, "made": "2026-11-28T12:00:00Z", "device": "RTX", "energy": energy, "points": points} | changes


def imported(tmp_path: Path, content: object, *more: str) -> int:
    file = tmp_path / "survey.json"
    file.write_text(json.dumps(content))
    return main(["profile", "import", str(file), "--name", "mine", "--to", str(tmp_path / "mine.json"), *more])


def test_a_profile_says_what_was_measured(tmp_path: Path) -> None:
    assert imported(tmp_path, document()) == 0
    profile = load_profile(tmp_path / "mine.json")
    assert profile.j_per_mac == pytest.approx(1e-9)
    assert profile.overhead_j == pytest.approx(2e-3)
    assert profile.idle_w == pytest.approx(5.0)
    assert profile.error_factor == pytest.approx(1.0)
    assert (profile.simulated, len(profile.source.rows)) == (False, 6)
    assert "nvml" in profile.source.submission


def test_of_a_verification_its_arms_count_and_how_far_they_stray_is_told(tmp_path: Path) -> None:
    verified = [{"arm": "small:rtx-fp16", "ok": True}, {"arm": "large:rtx-fp16", "ok": True}]
    content = document(verified=verified)
    content["points"][0]["energy_j"] *= 1.5
    assert imported(tmp_path, content) == 0
    profile = load_profile(tmp_path / "mine.json")
    assert len(profile.source.rows) == 4
    assert 1.1 < profile.error_factor < 1.5


def test_neither_constant_falls_below_zero(tmp_path: Path) -> None:
    content = document()
    for point in content["points"]:
        point["energy_j"] = (point["batch"] * point["macs"]) ** 1.2 * 1e-9
    assert imported(tmp_path, content) == 0
    profile = load_profile(tmp_path / "mine.json")
    assert profile.overhead_j == 0.0
    assert profile.error_factor > 1.2


def flat(content: dict[str, Any]) -> None:
    for point in content["points"]:
        point["energy_j"] = 1.0 / (point["batch"] * point["macs"])


def unseen(content: dict[str, Any]) -> None:
    for point in content["points"]:
        point["energy_j"] = None


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        (lambda content: content["energy"].update(provenance="modelled"), "joules are modelled"),
        (lambda content: content.update(verified=[{"arm": "large:rtx-fp16", "ok": False}]), "otherwise than ONNX"),
        (lambda content: content.update(format=2), "format"),
        (lambda content: content["points"][0].update(energy_j=float("nan")), "energy_j"),
        (lambda content: content.pop("points"), "points"),
        (unseen, "--seconds"),
        (flat, "do not grow"),
    ],
)
def test_what_says_nothing_about_joules_is_refused(
    tmp_path: Path, change: Any, needle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = document()
    change(content)
    assert imported(tmp_path, content) == ExitCode.CONFIG
    assert needle in capsys.readouterr().err
    assert not (tmp_path / "mine.json").exists()


def test_a_bad_name_or_file_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "My Board.json").write_text(json.dumps(document()))
    assert main(["profile", "import", str(tmp_path / "My Board.json")]) == ExitCode.CONFIG
    assert "--name" in capsys.readouterr().err
    assert main(["profile", "import", str(tmp_path / "none.json")]) == ExitCode.CONFIG


def test_the_largest_difference_is_taken_of_all_numbers() -> None:
    from nodes.verification import _difference

    assert _difference(np.array([[1.0, 2.0]]), np.array([[1.0, 2.5]])) == pytest.approx(0.5)
    assert _difference(np.array([1.0]), np.array([float("nan")])) == float("inf")
