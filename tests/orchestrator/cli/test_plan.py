"""`edgewise plan` on a small table: limits hold, the certificate is checked, and what cannot be meant is said."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.main import cli
from orchestrator.cli.main import run as main
from tests.optimizer.gate.needed import needs_native

pytestmark = needs_native

QUALITY = {"small": 0.4, "middle": 0.7, "large": 0.9}
JOULES = {"small": 1.0, "middle": 3.0, "large": 10.0}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    table, arms = tmp_path / "table.csv", tmp_path / "arms.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["prompt_id", "prompt", "task", "model", "quality", "output_tokens_estimate"])
        for q in range(60):
            task = "maths" if q % 2 else "chat"
            for model, quality in QUALITY.items():
                # The middle model is as good as the large one at maths.
                value = 0.9 if (task, model) == ("maths", "middle") else quality
                rows.writerow([f"p{q}", f"prompt number {q} about {task}", task, model, value, 10])
    with arms.open("w", newline="") as file:
        rows = csv.writer(file)
        names = "model,node,ms_base,ms_per_output_token,j_base,j_per_output_token,memory_bytes"
        rows.writerow(names.split(","))
        for node in ("orin", "pc"):
            for model, joules in JOULES.items():
                rows.writerow([model, node, 10, joules, 0, joules / 10, 1e9 * joules])
    return table, arms


def run(files: tuple[Path, Path], *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["plan", "--table", str(files[0]), "--arms", str(files[1]), *arguments])


def planned(files: tuple[Path, Path], *arguments: str) -> dict[str, Any]:
    result = run(files, *arguments, "-o", "json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_without_limits_everything_is_active_and_the_certificate_is_checked(files: tuple[Path, Path]) -> None:
    plan = planned(files)
    assert (plan["mode"], plan["status"], plan["certified"], plan["reasons"]) == ("worst_case", "optimal", True, [])
    assert len(plan["active"]) == 6
    assert plan["quality_fraction"] == pytest.approx(0.9, abs=0.03)


def test_worst_case_keeps_the_sum_of_joules_and_routed_their_mean(files: tuple[Path, Path]) -> None:
    worst = planned(files, "--max-energy", "4J")
    assert worst["energy_j"] <= 4.0
    assert {arm["model"] for arm in worst["active"]} == {"small", "middle"}
    routed = planned(files, "--mean-energy", "6.5J")
    assert routed["mode"] == "routed"
    assert routed["energy_j"] <= 6.5 + 1e-9
    # The large model for chat, the middle one for maths.
    assert routed["quality_fraction"] == pytest.approx(0.9, abs=0.03)
    assert routed["certified"] is True


def test_a_routed_budget_is_shared_among_tasks_and_each_has_a_price(files: tuple[Path, Path]) -> None:
    plan = planned(files, "--mean-energy", "5J")
    shares = {one["task"]: one for one in plan["shares"]["tasks"]}
    spent_j = 0.5 * (shares["chat"]["energy_j"] + shares["maths"]["energy_j"])
    assert spent_j <= 5.0 + 1e-9
    # At maths the middle model is as good as the large one: more joules are for chat.
    assert shares["chat"]["next"]
    assert shares["chat"]["points_per_j"] > shares["maths"]["points_per_j"]
    assert plan["shares"]["quality_fraction"] <= plan["quality_fraction"] + 1e-9


def test_memory_and_latency_limits_hold(files: tuple[Path, Path]) -> None:
    plan = planned(files, "--memory", "orin=3GB", "--memory", "pc=0", "--max-latency", "maths=50ms")
    assert {arm["name"] for arm in plan["active"]} == {"middle@orin"}
    limits = {one["task"]: one["latency_limit_ms"] for one in plan["classes"]}
    assert limits == {"chat": None, "maths": 50.0}


def test_the_fewest_joules_for_a_quality(files: tuple[Path, Path]) -> None:
    plan = planned(files, "--min-quality", "0.75")
    assert plan["quality_fraction"] >= 0.75
    assert plan["energy_limit_j"] == pytest.approx(3.0, rel=1e-3)


def test_two_at_a_time(files: tuple[Path, Path]) -> None:
    plan = planned(files, "--any-right", "--fanout", "2", "--mean-energy", "4.5J", "--max-active", "3")
    assert plan["certified"] is True
    assert plan["solver"] != "exact"


def test_a_table_for_people(files: tuple[Path, Path]) -> None:
    result = run(files, "--mean-energy", "5J")
    assert "routed plan: optimal, certificate checked" in result.stdout
    assert "+1 J buys about" in result.stdout
    assert "maths" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--max-energy", "1J", "--mean-energy", "1J"), 2, "two different plans"),
        (("--memory", "orin"), 2, "write NODE=BYTES"),
        (("--memory", "orin=much"), 2, "such as 24GiB"),
        (("--memory", "mars=1GB"), 2, "there is no node 'mars'"),
        (("--max-latency", "poetry=1s"), 2, "there is no task 'poetry'"),
        (("--max-energy", "0.1J"), 7, "no arm fits these limits"),
        (("--min-quality", "0.99"), 7, "the best reaches"),
    ],
)
def test_what_cannot_be_meant_is_said(
    files: tuple[Path, Path], capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, told: str
) -> None:
    assert main(["plan", "--table", str(files[0]), "--arms", str(files[1]), *arguments]) == code
    assert told in capfd.readouterr().err


# ---- idle watts


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    """The pc sleeps now, and idles at ten times the board's watts."""
    file = tmp_path / "nodes.csv"
    file.write_text("node,idle_w,sleep_w,wake_s,wake_j,awake\norin,3,1,2,20,yes\npc,22,2,30,600,no\n")
    return file


@pytest.fixture
def apart(files: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The small and the middle model on the board, the large one on the pc alone."""
    kept = [line for line in files[1].read_text().splitlines() if ("large,orin" in line) + (",pc," in line) != 1]
    large = [line for line in files[1].read_text().splitlines() if line.startswith("large,pc")]
    arms = tmp_path / "apart.csv"
    arms.write_text("\n".join([*kept, *large]) + "\n")
    return files[0], arms


def test_idle_watts_change_which_arms_are_active(apart: tuple[Path, Path], nodes: Path) -> None:
    """At two requests per second the pc idles at 10 J each, of 12; without counting that its large model is taken."""
    limit = ("--mean-energy", "12J")
    without = planned(apart, *limit)
    assert {arm["node"] for arm in without["active"]} == {"orin", "pc"}
    assert without["nodes"] is None
    plan = planned(apart, *limit, "--nodes", str(nodes), "--rate", "2")
    assert plan["certified"], plan["reasons"]
    assert {arm["node"] for arm in plan["active"]} == {"orin"}
    assert plan["nodes"]["awake"] == ["orin"]
    assert plan["nodes"]["idle_j"] == pytest.approx(1.0)
    assert plan["nodes"]["total_j"] == pytest.approx(plan["energy_j"] + 1.0)
    assert plan["nodes"]["steps"] == []
    assert plan["quality_fraction"] < without["quality_fraction"]
    # At twenty it is one joule.
    often = planned(apart, *limit, "--nodes", str(nodes), "--rate", "20")
    assert often["nodes"]["awake"] == ["orin", "pc"]
    assert [(step["node"], step["step"], step["after_s"]) for step in often["nodes"]["steps"]] == [("pc", "wake", 30.0)]


def test_the_fewest_joules_count_idling(apart: tuple[Path, Path], nodes: Path) -> None:
    plan = planned(apart, "--min-quality", "0.6", "--nodes", str(nodes), "--rate", "2")
    assert plan["nodes"]["awake"] == ["orin"]
    assert plan["quality_fraction"] >= 0.6
    told = run(apart, "--min-quality", "0.6", "--nodes", str(nodes), "--rate", "2").output
    assert "Nodes awake: orin" in told


@pytest.mark.parametrize(
    ("text", "arguments", "code", "told"),
    [
        ("node,idle_w\npc,5\n", ("--mean-energy", "5J"), 2, "go together"),
        ("node,idle_w\npc,5\n", ("--rate", "1"), 2, "--nodes needs"),
        ("node,idle_w\nattic,5\n", ("--rate", "1"), 2, "there is no arm on node 'attic'"),
        ("node\npc\n", ("--rate", "1"), 2, "column idle_w is missing"),
        ("node,idle_w\npc,-5\n", ("--rate", "1"), 2, "row 1, column idle_w is '-5'"),
        ("node,idle_w\npc,\n", ("--rate", "1"), 2, "column idle_w is empty"),
        ("node,idle_w,sleep_w\npc,5,6\n", ("--rate", "1"), 2, "sleeping cannot take more"),
        ("node,idle_w,awake\npc,5,perhaps\n", ("--rate", "1"), 2, "write yes or no"),
        ("node,idle_w\npc,5\npc,6\n", ("--rate", "1"), 2, "there twice"),
        ("node,idle_w\npc,5\norin,6\n", ("--rate", "1", "--mean-energy", "0.1J"), 7, "idling"),
    ],
)
def test_nodes_that_cannot_be_meant_are_refused(
    files: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    text: str,
    arguments: tuple[str, ...],
    code: int,
    told: str,
) -> None:
    file = tmp_path / "nodes.csv"
    file.write_text(text)
    paths = ("--table", str(files[0]), "--arms", str(files[1]), "--nodes", str(file))
    assert main(["plan", *paths, *arguments]) == code
    assert told in capsys.readouterr().err
