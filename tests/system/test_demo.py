"""The demo as a newcomer runs it: real processes, real queries, files, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from deploy.demo.asking import Asked
from deploy.demo.levels import Level
from deploy.demo.plot import merge_labels
from deploy.demo.processes import DemoFailed, Processes
from deploy.demo.report import arms_text, reading_notes
from deploy.demo.rows import make_row

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
ROW_KEYS = {
    "budget",
    "policy",
    "accuracy",
    "j_per_request",
    "p50_ms",
    "p95_ms",
    "joule_miss_fraction",
    "latency_miss_fraction",
    "admitted_fraction",
    "arms",
    "ms_source",
    "energy_source",
}
ALTERNATIVES = {"best_single", "cheapest", "random", "all_fused", "static_mixture", "cascade"}
FINISH_S = 60


async def _start(folder: Path) -> asyncio.subprocess.Process:
    """The demo with few queries; its processes are known by the folder in their environment."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.demo", "--queries", "8", "--questions", "7", "--build", str(folder / "build")),
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )


def _children(folder: Path) -> list[psutil.Process]:
    """Every process that the demo started, and theirs."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in process.environ().get("XDG_CONFIG_HOME", ""):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


async def _read_until(demo: asyncio.subprocess.Process, text: str) -> str:
    assert demo.stdout is not None
    seen = ""
    while text not in seen:
        line = await demo.stdout.readline()
        assert line, f"the demo ended before it said {text!r}:\n{seen}"
        seen += line.decode()
    return seen


@pytest.fixture
async def demo(tmp_path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    started = await _start(tmp_path)
    yield started
    if started.returncode is None:
        started.kill()
        await started.wait()
    for left in _children(tmp_path):
        left.kill()


async def test_shows_everything_and_leaves_only_files(demo: asyncio.subprocess.Process, tmp_path: Path) -> None:
    async with asyncio.timeout(FINISH_S):
        output, _ = await demo.communicate()
    text = output.decode()
    assert demo.returncode == 0, text
    assert _children(tmp_path) == []
    assert os.listdir(tmp_path) == ["build"], "temporary files were left behind"
    _check_text(text)
    _check_summary(json.loads((tmp_path / "build" / "summary.json").read_text()))
    _check_plot(tmp_path / "build" / "pareto.png")


def _check_text(text: str) -> None:
    for wanted in ("ms_source: measured-here", "energy_source: modelled", "Edgewise", *ALTERNATIVES):
        assert wanted in text
    assert "Predicted against actual" in text, "edgewise why did not explain a request"
    assert max(map(len, text.splitlines())) <= 110


def _check_summary(summary: dict[str, object]) -> None:
    rows = summary["rows"]
    assert isinstance(rows, list)
    assert {"version", "machine", "seeds", "devices", "rows"} <= set(summary)
    assert all(set(row) == ROW_KEYS for row in rows)
    assert {row["policy"] for row in rows} == {"edgewise", *ALTERNATIVES}
    assert {(row["ms_source"], row["energy_source"]) for row in rows} == {("measured-here", "modelled")}
    own = [row["budget"] for row in rows if row["policy"] == "edgewise"]
    assert len({budget["max_energy_j"] for budget in own}) >= 4
    assert len({budget["max_latency_ms"] for budget in own}) >= 2
    assert all(arm.endswith("-sim") for row in rows for arm in row["arms"])
    devices = summary["devices"]
    assert isinstance(devices, list)
    assert [device["energy_method"] for device in devices] == [
        "profile:jetson-agx-orin+noise",
        "profile:rtx-4090+noise",
        "profile:laptop-cpu+noise",
    ]
    assert all(device["device"].endswith("(simulated)") for device in devices)
    # Same expert for every query: the mean of 8 draws of a lognormal error cannot be far from 640 MACs × 7.1 pJ.
    cheapest = next(row for row in rows if row["policy"] == "cheapest")
    assert 2e-9 < cheapest["j_per_request"] < 2e-8
    assert all(0.5 <= row["accuracy"] <= 1.0 for row in rows if row["admitted_fraction"] > 0)


def _check_plot(path: Path) -> None:
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert min(pixels.shape[:2]) > 400
    inked = (pixels < 200).any(axis=2)
    assert 0.005 < inked.mean() < 0.5
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


@pytest.mark.parametrize(
    ("moment", "number", "code"),
    [
        ("Waiting:", signal.SIGINT, 130),
        ("certified plan is in force", signal.SIGINT, 130),
        ("Starting three agents", signal.SIGTERM, 143),
    ],
)
async def test_a_signal_stops_all_processes(
    demo: asyncio.subprocess.Process, tmp_path: Path, moment: str, number: signal.Signals, code: int
) -> None:
    async with asyncio.timeout(FINISH_S):
        await _read_until(demo, moment)
        assert _children(tmp_path)
        demo.send_signal(number)
        output, _ = await demo.communicate()
    assert demo.returncode == code, output.decode()
    assert "Traceback" not in output.decode()
    assert _children(tmp_path) == []
    assert not (tmp_path / "build" / "summary.json").exists()


async def test_the_death_of_a_node_ends_the_demo_and_says_which(
    demo: asyncio.subprocess.Process, tmp_path: Path
) -> None:
    async with asyncio.timeout(FINISH_S):
        await _read_until(demo, "Waiting:")
        agent = next(process for process in _children(tmp_path) if "laptop-sim" in process.cmdline())
        agent.kill()
        output, _ = await demo.communicate()
    assert demo.returncode == 1
    assert "laptop-sim ended with exit code -9" in output.decode().replace("\n", " ")
    assert _children(tmp_path) == []


async def test_processes_that_do_not_listen_are_killed_with_all_they_started(tmp_path: Path) -> None:
    stubborn = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print('up', flush=True); time.sleep(60)"
    )
    async with asyncio.timeout(FINISH_S):
        async with Processes(tmp_path / "logs", stop_s=0.2) as processes:
            private = processes.folder
            child = await processes.start("stubborn", (sys.executable, "-c", stubborn))
            while "up" not in child.tail():
                processes.check()
                await asyncio.sleep(0.01)
            assert len(_children(private)) == 2
        # The grandchild was killed with its group; init reaps it.
        _, alive = psutil.wait_procs(_children(private), timeout=5)
    assert child.process.returncode == -signal.SIGKILL
    assert alive == []
    assert not private.exists()


async def test_an_unexpected_end_tells_the_end_of_the_log(tmp_path: Path) -> None:
    async with Processes(tmp_path) as processes:
        child = await processes.start("short", (sys.executable, "-c", "import sys; sys.exit('no such thing')"))
        await child.process.wait()
        with pytest.raises(DemoFailed, match=r"(?s)short ended with exit code 1.*no such thing"):
            processes.check()


def _asked(*, energy_j: float = 1e-9, ms: float = 5.0, correct: bool = True, answered: bool = True) -> Asked:
    return Asked("r", True, answered, correct and answered, energy_j, ms, ("digits-linear:onnx-fp32@orin-sim",))


def test_a_row_counts_misses_and_refusals() -> None:
    refused = Asked("r", False, False, False, 0.0, 1.0, ())
    asked = [_asked(), _asked(energy_j=9e-9), _asked(ms=50.0), _asked(answered=False), refused]
    row = make_row(Level(2e-9, 20.0), "edgewise", asked)
    assert (row.accuracy, row.admitted_fraction) == (0.75, 0.8)
    assert (row.joule_miss_fraction, row.latency_miss_fraction) == (0.25, 0.5)
    assert row.j_per_request == pytest.approx(3e-9)
    assert row.arms == {"digits-linear:onnx-fp32@orin-sim": 4}
    notes = " ".join(reading_notes([row], 5))
    assert "edgewise, ≤ 2 nJ, ≤ 20 ms (25.0 % joules, 50.0 % ms)" in notes
    assert "150.0 % of what they were allowed" in notes


def test_a_row_without_answers_has_no_figures() -> None:
    row = make_row(Level(1e-12, 20.0), "edgewise", [Asked("r", False, False, False, 0.0, 1.0, ())])
    assert (row.accuracy, row.j_per_request, row.p50_ms, row.admitted_fraction) == (None, None, None, 0.0)
    assert (row.joule_miss_fraction, row.latency_miss_fraction) == (0.0, 0.0)


def test_arms_are_told_by_node() -> None:
    arms = {"digits-linear:v@a-sim": 199, "digits-mlp:v@b-sim": 100, "digits-wide:v@a-sim": 1}
    assert arms_text(arms) == "a-sim: linear 66, wide <1; b-sim: mlp 33"


def test_points_on_each_other_share_a_label() -> None:
    points = [("b", (1.1e-4, 99.7)), ("a", (1.0e-4, 99.7)), ("c", (1.0e-4, 99.4)), ("d", (1e-6, 99.7))]
    assert [name for name, _ in merge_labels(points)] == ["d", "c", "a, b"]
