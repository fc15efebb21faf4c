"""`eval`, `gate` and `budget sweep|tune` on generated traffic: what comes out, what is refused, with which code."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from optimizer.study.study import CURVES, POLICIES
from orchestrator.cli.main import run
from tests.optimizer.gate.needed import needs_native
from tests.optimizer.study.toy import toy_table
from tests.orchestrator.study.test_tables import write_arms, write_table

pytestmark = needs_native

Call = Callable[..., "Ended"]


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def edgewise(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    for name in [name for name in os.environ if name.startswith("EDGEWISE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def call(*arguments: str | Path) -> Ended:
        code = run([str(argument) for argument in arguments])
        return Ended(code, *capfd.readouterr())

    return call


def rows(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    table = toy_table(count, seed=seed)
    return [
        {"prompt_id": f"p{q}", "prompt": table.texts[q], "task": table.tasks[q], "model": m, "quality": quality}
        for q in range(count)
        for m, quality in zip(table.models, table.quality_qm[q].tolist(), strict=True)
    ]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    arms = write_arms(tmp_path, "adder,n,0,1,0,0.01,1", "giant,n,0,10,0,0.1,1", "poet,n,0,1.1,0,0.011,1")
    return write_table(tmp_path, rows(200)), arms


def test_eval_gives_the_promised_keys(edgewise: Call, files: tuple[Path, Path], tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    ended = edgewise("eval", "--table", files[0], "--arms", files[1], "-o", "json", "--plot", plot)
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert {"rows", "joules_at_best_single_quality", "oracle_gap_closed"} <= set(found)
    names = {"policy", "budget_j", "quality", "quality_low", "quality_high", "j_per_query", "ms_p95"}
    assert all(set(row) == names for row in found["rows"])
    assert {row["policy"] for row in found["rows"]} == set(POLICIES)
    assert set(found["joules_at_best_single_quality"]) == set(CURVES)
    assert found["joules_at_best_single_quality"]["edgewise"] < 0.3
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "fold 1 of 5" in ended.err


def test_eval_as_a_table_names_policies_and_is_quiet_when_asked(edgewise: Call, files: tuple[Path, Path]) -> None:
    ended = edgewise("--quiet", "eval", "--table", files[0], "--arms", files[1])
    assert ended.code == 0
    assert "task_lookup" in ended.out
    assert ended.err == ""


@pytest.mark.parametrize(
    ("count", "change"),
    [(12, {}), (40, {"task": "only"}), (40, {"prompt": ""}), (40, {"prompt": "the same"}), (30, {"task": None})],
)
def test_eval_copes_with_little(edgewise: Call, files: tuple[Path, Path], count: int, change: dict[str, Any]) -> None:
    table = write_table(files[0].parent, [{**row, **change} for row in rows(count)])
    ended = edgewise("eval", "--table", table, "--arms", files[1], "-o", "json")
    assert ended.code == 0, ended.err
    json.loads(ended.out)


def test_eval_copes_with_holes_and_unknown_models(edgewise: Call, files: tuple[Path, Path]) -> None:
    kept = [row for i, row in enumerate(rows(150)) if i % 5 or row["model"] == "giant"]
    extra = [{**row, "model": "stranger"} for row in rows(30) if row["model"] == "poet"]
    ended = edgewise("eval", "--table", write_table(files[0].parent, kept + extra), "--arms", files[1], "-o", "json")
    assert ended.code == 0, ended.err
    assert "1 of 4 models have no arm and are left out: stranger" in ended.err


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        ({"quality": float("nan")}, 2, "row 1, column quality is nan"),
        ({"model": "stranger"}, 2, "none of the table's 1 models has an arm"),
    ],
)
def test_eval_refuses_in_one_line(
    edgewise: Call, files: tuple[Path, Path], change: dict[str, Any], code: int, told: str
) -> None:
    table = write_table(files[0].parent, [{**row, **change} for row in rows(30)])
    ended = edgewise("--quiet", "eval", "--table", table, "--arms", files[1], "-o", "json")
    assert (ended.code, ended.out) == (code, "")
    assert told in ended.err
    assert ended.err.count("\n") == 1


def test_eval_says_what_is_not_there_and_what_is_too_little(edgewise: Call, files: tuple[Path, Path]) -> None:
    assert edgewise("eval", "--table", "absent.csv", "--arms", files[1]).code == 4
    ended = edgewise("eval", "--table", write_table(files[0].parent, rows(5)), "--arms", files[1])
    assert ended.code == 2
    assert "too few" in ended.err


def test_a_gate_is_trained_judged_and_extended(edgewise: Call, files: tuple[Path, Path], tmp_path: Path) -> None:
    table, saved, larger = files[0], tmp_path / "gate.npz", tmp_path / "larger.npz"
    two = write_table(tmp_path / "..", [row for row in rows(200) if row["model"] != "poet"])
    ended = edgewise("gate", "train", "--table", two, "--save", saved, "-o", "json")
    assert [head["model"] for head in json.loads(ended.out)] == ["adder", "giant"]
    write_table(tmp_path, rows(200))
    assert edgewise("gate", "train", "--table", table, "--save", larger, "--add-to", saved).code == 0
    fresh = write_table(tmp_path, rows(100, seed=7))
    ended = edgewise("gate", "eval", "--gate", larger, "--table", fresh, "-o", "json")
    judged = {row["model"]: row for row in json.loads(ended.out)}
    assert set(judged) == {"adder", "giant", "poet"}
    assert judged["poet"]["squared_error"] < 0.6 * judged["poet"]["squared_error_of_mean"]


def test_a_gate_is_not_judged_on_what_it_has_seen(edgewise: Call, files: tuple[Path, Path], tmp_path: Path) -> None:
    saved = tmp_path / "gate.npz"
    edgewise("gate", "train", "--table", files[0], "--save", saved)
    ended = edgewise("gate", "eval", "--gate", saved, "--table", files[0])
    assert ended.code == 2
    assert "every prompt of the table was trained on" in ended.err


def test_sweep_shows_a_frontier(edgewise: Call, files: tuple[Path, Path]) -> None:
    points = json.loads(edgewise("budget", "sweep", "--table", files[0], "--arms", files[1], "-o", "json").out)
    assert len(points) >= 2
    assert all(0.0 <= point["quality"] <= 1.0 for point in points)


def test_tune_writes_limits_and_keeps_the_rest(edgewise: Call, files: tuple[Path, Path], tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("log: {level: debug}\nbudgets: {default: {profile: eco}}\n")
    arguments = ("budget", "tune", "--table", files[0], "--arms", files[1], "--config", config)
    assert edgewise(*arguments, "--dry-run").code == 0
    assert "max_energy_j" not in config.read_text()
    assert edgewise(*arguments, "--max-energy", "5J").code == 0
    written = yaml.safe_load(config.read_text())
    assert written["log"] == {"level": "debug"}
    assert written["budgets"]["default"]["profile"] == "eco"
    assert 1.0 < written["budgets"]["default"]["max_energy_j"] <= 5.0
    assert edgewise("config", "validate", config).code == 0
    assert edgewise(*arguments, "--task", "chat").code == 0
    assert set(yaml.safe_load(config.read_text())["budgets"]["tasks"]["chat"]) == {"max_energy_j", "max_latency_ms"}


def test_tune_refuses_what_cannot_be_had(edgewise: Call, files: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = ("budget", "tune", "--table", files[0], "--arms", files[1], "--config", tmp_path / "c.yaml")
    assert edgewise(*arguments, "--max-energy", "1mJ").code == 7
    assert edgewise(*arguments, "--min-quality", "1").code == 7
    assert not (tmp_path / "c.yaml").exists()
    (tmp_path / "c.yaml").write_text("no_such_key: 1\n")
    assert edgewise(*arguments).code == 3
    assert (tmp_path / "c.yaml").read_text() == "no_such_key: 1\n"


def test_idle_watts_change_the_limits_that_tune_picks(edgewise: Call, tmp_path: Path) -> None:
    """The poet is good and cheap, but on a machine that idles at 50 W; the giant's idles at 1 W."""
    arms = write_arms(tmp_path, "adder,box,0,1,0,0.01,1", "giant,pc,0,10,0,0.1,1", "poet,attic,0,1.1,0,0.011,1")
    nodes = tmp_path / "nodes.csv"
    nodes.write_text("node,idle_w\nbox,0.5\npc,1\nattic,50\n")
    files = ("--table", write_table(tmp_path, rows(200)), "--arms", arms)
    tune = (
        "budget",
        "tune",
        *files,
        "--config",
        tmp_path / "c.yaml",
        "--dry-run",
        "--min-quality",
        "0.8",
        "-o",
        "json",
    )
    (without,) = json.loads(edgewise(*tune).out)
    (counted,) = json.loads(edgewise(*tune, "--nodes", nodes, "--rate", "1").out)
    assert (without["idle_j"], without["j_per_query"] < 2.0) == (0.0, True)
    assert counted["idle_j"] < 2.0
    assert counted["j_per_query"] > 5.0
    swept = edgewise("budget", "sweep", *files, "--nodes", nodes, "--rate", "1")
    assert "idle per" in swept.out
    assert edgewise(*tune, "--nodes", nodes).code == 2


def test_without_the_compiled_part_the_cure_is_said(
    edgewise: Call, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from optimizer.errors import NativeMissing
    from optimizer.native import text_gate

    def missing() -> None:
        raise NativeMissing("The compiled part is not built here: install a C compiler, then reinstall edgewise.")

    monkeypatch.setattr(text_gate, "_functions", missing)
    ended = edgewise("--quiet", "eval", "--table", files[0], "--arms", files[1])
    assert ended.code == 1
    assert "install a C compiler" in ended.err
    assert ended.err.count("\n") == 1


def test_workers_give_the_same_bits_as_this_process(edgewise: Call, tmp_path: Path) -> None:
    arms = write_arms(tmp_path, "adder,n,0,1,0,0.01,1", "giant,n,0,10,0,0.1,1", "poet,n,0,1.1,0,0.011,1")
    table = write_table(tmp_path, rows(60))
    told = [
        edgewise("budget", "sweep", "--table", table, "--arms", arms, "-o", "json", "--workers", where)
        for where in ("local", "local:2")
    ]
    assert [one.code for one in told] == [0, 0], told
    assert told[0].out == told[1].out
    assert "fold 5 of 5" in told[1].err


def test_workers_that_cannot_be_are_refused(edgewise: Call, files: tuple[Path, Path], tmp_path: Path) -> None:
    sweep = ("budget", "sweep", "--table", files[0], "--arms", files[1])
    wrong = edgewise(*sweep, "--workers", "dask")
    assert (wrong.code, "'dask' is none of them" in wrong.err) == (2, True)
    sent = edgewise(*sweep, "--workers", "local:2", "--encoder", tmp_path / "encoder.onnx")
    assert (sent.code, "cannot be sent" in sent.err) == (2, True)
    part = edgewise("gate", "train", "--feedback", tmp_path, "--save", tmp_path / "g.npz", "--workers", "local:2")
    assert (part.code, "--table" in part.err) == (2, True)
