"""`prune train` by every method on the digits, stopped, resumed, taught, and at further masses. Needs torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="not run: torch is not installed (pip install 'edgewise[train]')")
torch.set_num_threads(1)

from kernels.native.library import available  # noqa: E402
from nodes.cli import main  # noqa: E402
from nodes.errors import ExitCode  # noqa: E402
from nodes.pruning.commands import METHODS  # noqa: E402
from nodes.pruning.training import Course, Schedule, task_loss  # noqa: E402
from nodes.worker.chains import ChainModel  # noqa: E402
from nodes.zoo.arrays import read_arrays  # noqa: E402

BRIEF = ["--epochs", "1", "--rate", "0.02"]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("dense") / "dense.npz"
    assert main(["prune", "train", "--net", "digits", "--to", str(to), *BRIEF]) == 0
    return to


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("narrow") / "narrow.npz"
    assert main(["prune", "train", "--net", "digits", "--width", "0.5", "--to", str(to), *BRIEF]) == 0
    return to


def pruned(dense: Path, to: Path, *flags: str) -> dict[str, Any]:
    assert main(["prune", "train", "--from", str(dense), "--to", str(to), *flags, *BRIEF]) == 0
    facts: dict[str, Any] = json.loads(to.with_suffix(".json").read_text())["facts"]
    return facts


def test_every_method_meets_the_same_budget_and_stands_in_one_table(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for method in METHODS:
        files += [tmp_path / f"{method}.npz"]
        facts = pruned(dense, files[-1], "--method", method, "--target-macs", "0.6")
        assert facts["method"] == method
        # Groups are coarse in so small a network: dynamically it is the forecast that is met, and that saves enough.
        foretold = facts.get("reduction_forecast", 0.4)
        assert foretold >= 0.4
        assert facts["reduction"] == pytest.approx(foretold, abs=0.05)
    capsys.readouterr()
    beside = [flag for file in files for flag in ("--beside", str(file))]
    assert main(["prune", "profile", "--from", str(dense), *beside]) == 0
    before, after = capsys.readouterr().out.split("\n\n")
    for method in METHODS:
        assert method in before
        assert f"{method}\n" in after + "\n", "the name of its checkpoint ends the line"


@pytest.mark.skipif(not available(), reason="not run: no compiled library")
def test_milliseconds_are_a_budget_for_every_method(narrow: Path, tmp_path: Path) -> None:
    # So many that nothing must go: what a machine under load takes does not decide this test.
    assert pruned(narrow, tmp_path / "a.npz", "--target-ms", "1e6")["mass"] == 1.0
    assert pruned(narrow, tmp_path / "b.npz", "--target-ms", "1e6", "--method", "static-uniform")["share"] == 1.0


@pytest.mark.skipif(not available(), reason="not run: no compiled library")
def test_one_checkpoint_is_exported_at_several_masses(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "pruned.npz"
    facts = pruned(dense, source, "--mass", "0.8", "--also-mass", "0.5", "--also-mass", "0.95")
    images = np.random.default_rng(0).random((64, 1, 8, 8), dtype=np.float32)
    kept = {}
    for mass in ("0.5", "0.8", "0.95"):
        to = tmp_path / f"m{mass}.npz"
        assert main(["prune", "export", "--from", str(source), "--to", str(to), "--mass", mass]) == 0
        kept[mass] = ChainModel(to.read_bytes()).masks(images).mean()
    assert kept["0.5"] < kept["0.95"]
    assert kept["0.5"] <= kept["0.8"] <= kept["0.95"]
    points = {point["mass"]: point for point in facts["points"]}
    assert points[0.5]["reduction"] > facts["reduction"] > points[0.95]["reduction"]
    assert set(points[0.5]) == {"mass", "thresholds", "reduction", "accuracy"}
    flags = ["--from", str(source), "--to", str(tmp_path / "x.npz"), "--mass", "0.3"]
    assert main(["prune", "export", *flags]) == ExitCode.CONFIG
    assert "0.5, 0.95" in capsys.readouterr().err


def test_a_killed_training_goes_on_after_its_last_whole_epoch_to_the_same_bytes(narrow: Path, tmp_path: Path) -> None:
    """Killed without a warning, then told the same again; beside it one that nobody killed, and one of another seed."""

    def command(to: Path, epochs: int = 2, seed: int = 0) -> list[str]:
        flags = ["--from", str(narrow), "--mass", "0.7", "--epochs", str(epochs), "--rate", "0.02", "--to", str(to)]
        return [sys.executable, "-m", "nodes", "prune", "train", *flags, "--seed", str(seed)]

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    killed, state = tmp_path / "killed.npz", tmp_path / "killed.state.npz"
    with subprocess.Popen(command(killed), env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 1/"):
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not killed.exists()
    other = subprocess.run(command(killed, epochs=3), env=environment, capture_output=True, text=True)
    assert other.returncode == ExitCode.CONFIG, "another training must not go on from this one's state"
    assert "epochs 2" in other.stderr
    assert int(read_arrays(state)["epochs"][0]) == 1
    again = subprocess.run(command(killed), env=environment, capture_output=True, text=True, check=True)
    assert "epoch 1/" not in again.stdout
    assert "epoch 2/2" in again.stdout
    facts = json.loads(killed.with_suffix(".json").read_text())["facts"]
    assert facts["reduction"] == pytest.approx(facts["reduction_forecast"], abs=0.05)
    assert facts["threads"] == 1
    assert not state.exists()
    whole, unlike = tmp_path / "whole.npz", tmp_path / "unlike.npz"
    subprocess.run(command(whole), env=environment, capture_output=True, check=True)
    subprocess.run(command(unlike, seed=1), env=environment, capture_output=True, check=True)
    assert whole.read_bytes() == killed.read_bytes()
    assert unlike.read_bytes() != whole.read_bytes()


def test_a_teacher_is_listened_to_for_its_share() -> None:
    chance = np.random.default_rng(0)
    logits, taught = (torch.from_numpy(chance.standard_normal((5, 4)).astype(np.float32)) for _ in range(2))
    labels, image = torch.tensor([0, 1, 2, 3, 0]), torch.zeros(5, 1)

    def loss(distill: float, answers: Any) -> float:
        teacher = torch.nn.Linear(1, 4)
        teacher.forward = lambda _: answers
        return float(
            task_loss(logits, image, labels, course=Course(Schedule(1, 0.1), teacher=teacher, distill=distill))
        )

    alone = float(torch.nn.functional.cross_entropy(logits, labels))
    assert loss(0.0, taught) == pytest.approx(alone)
    assert loss(1.0, logits) == pytest.approx(0.0, abs=1e-6)
    assert loss(0.5, taught) == pytest.approx((alone + loss(1.0, taught)) / 2)
    assert loss(1.0, taught) > 0.1


def test_a_taught_network_differs_from_one_that_is_not(narrow: Path, tmp_path: Path) -> None:
    plain, taught = tmp_path / "plain.npz", tmp_path / "taught.npz"
    pruned(narrow, plain, "--mass", "0.8")
    assert pruned(narrow, taught, "--mass", "0.8", "--distill", "0.7")["distill"] == 0.7
    a, b = read_arrays(plain), read_arrays(taught)
    assert np.abs(a["convs.2.conv.weight"] - b["convs.2.conv.weight"]).max() > 1e-4


@pytest.mark.parametrize(
    "flags",
    [
        ["--method", "static-taylor"],
        ["--distill", "0.5"],
        ["--also-mass", "0.5"],
        ["--from", "d.npz", "--mass", "0.5", "--method", "static-taylor", "--joint"],
        ["--from", "d.npz", "--mass", "0.5", "--method", "static-taylor", "--group", "1"],
    ],
)
def test_flags_that_would_do_nothing_are_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "train", "--to", "x.npz", *flags]) == ExitCode.CONFIG
    assert "leave it out" in capsys.readouterr().err


def test_single_filters_can_be_tried_on_a_trained_network(narrow: Path, tmp_path: Path) -> None:
    to = tmp_path / "fine.npz"
    pruned(narrow, to, "--mass", "0.8", "--group", "1")
    assert json.loads(to.with_suffix(".json").read_text())["net"]["group"] == 1
    assert main(["prune", "export", "--from", str(to), "--to", str(tmp_path / "x.npz")]) == ExitCode.CONFIG
