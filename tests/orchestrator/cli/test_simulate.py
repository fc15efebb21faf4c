"""`edgewise simulate`: tables, JSON, and one line for whatever cannot be asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from orchestrator.cli.main import run
from tests.orchestrator.fake_gateway import NODES, FakeGateway

FLEET = """
devices:
  jetson-agx-orin:
    idle_w: 9.0
    experts:
      small: {task: digits, quality: 0.90, p50_ms: 40, p95_ms: 60, energy_j: 0.4}
      large: {task: digits, quality: 0.97, p50_ms: 120, p95_ms: 180, energy_j: 2.1}
  laptop:
    experts:
      small: {task: digits, quality: 0.90, p50_ms: 60, p95_ms: 110, energy_j: 1.1}
nodes: {jetson-agx-orin: 1, laptop: 1}
tasks:
  digits: {max_latency_ms: 400}
"""

Call = Callable[..., "Ended"]


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def simulate(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(FLEET)

    def call(*arguments: str, fleet: Path | None = fleet) -> Ended:
        given = [] if fleet is None else ["--fleet", str(fleet)]
        code = run(["simulate", *given, *arguments])
        return Ended(code, *capfd.readouterr())

    return call


def test_a_table_for_people(simulate: Call) -> None:
    ended = simulate("--arrivals", "poisson:20/s", "--duration", "20s")
    assert ended.code == 0
    for word in ("answered", "quality (expected)", "joules per answer", "p95", "jetson-agx-orin-1", "modelled"):
        assert word in ended.out
    assert "Idle power is unknown of 1 nodes" in ended.out


def test_both_fleets_side_by_side(simulate: Call) -> None:
    ended = simulate("--arrivals", "poisson:20/s", "--duration", "20s", "--add", "jetson-agx-orin=2")
    assert ended.code == 0
    assert "changed minus as it is" in ended.out
    assert "95 % interval" in ended.out


def test_json_for_programs_is_alone_on_stdout_and_the_same_for_a_seed(simulate: Call) -> None:
    asked = ("--arrivals", "poisson:20/s", "--duration", "10s", "--remove", "laptop=1", "-o", "json")
    one, other = simulate(*asked), simulate(*asked)
    assert one.out == other.out
    document = json.loads(one.out)
    assert document["base"]["nodes_total"] == 2
    assert document["changed"]["nodes_total"] == 1
    assert set(document["differences"]) >= {"p95_ms", "energy_j", "quality_fraction", "answered_fraction"}
    assert document["base"]["nodes"][0]["utilisation_fraction"] > 0.0
    assert simulate(*asked, "--seed", "1").out != one.out


def test_a_trace_at_a_rate(simulate: Call, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("time_s\n" + "\n".join(str(0.3 * k) for k in range(50)))
    ended = simulate("--trace", str(trace), "--rate", "10/s", "--duration", "30s", "-o", "json")
    assert json.loads(ended.out)["base"]["all"]["requests"] == pytest.approx(300, rel=0.2)


def test_budgets_of_the_command_line_hold_for_every_task(simulate: Call) -> None:
    ended = simulate("--arrivals", "poisson:5/s", "--duration", "10s", "--max-energy", "1mJ", "-o", "json")
    assert json.loads(ended.out)["base"]["all"]["ends"] == {"BUDGET_INFEASIBLE": 1.0}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--arrivals poisson:RATE or --trace FILE"),
        (("--arrivals", "poisson:fast"), "write a rate such as 50/s"),
        (("--arrivals", "uniform:3/s"), "write poisson:RATE"),
        (("--arrivals", "poisson:3/s", "--rate", "4/s"), "--rate belongs to --trace"),
        (("--arrivals", "poisson:3/s", "--add", "orin"), "write DEVICE=COUNT"),
        (("--arrivals", "poisson:3/s", "--add", "orin=0"), "write DEVICE=COUNT"),
        (("--arrivals", "poisson:3/s", "--add", "nano=1"), "known are jetson-agx-orin, laptop"),
        (("--arrivals", "poisson:3/s", "--kill", "laptop-1"), "write NODE@TIME"),
        (("--arrivals", "poisson:3/s", "--kill", "nano-1@3s"), "no node 'nano-1' to kill"),
        (("--arrivals", "poisson:3/s", "--from-gateway"), "--fleet FILE or --from-gateway"),
        (("--arrivals", "poisson:1000000/s", "--duration", "10h"), "more than 20000000"),
        (("--arrivals", "poisson:3/s", "--duration", "10"), "a span needs its unit"),
    ],
)
def test_what_cannot_be_asked_is_one_line(simulate: Call, arguments: tuple[str, ...], says: str) -> None:
    ended = simulate(*arguments)
    assert ended.code == 2
    assert ended.out == ""
    line = ended.err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert says in line


def test_a_bad_fleet_file_is_one_line(simulate: Call, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(FLEET.replace("quality: 0.97", "quality: 97"))
    ended = simulate("--arrivals", "poisson:3/s", fleet=bad)
    assert ended.code == 2
    assert "bad.yaml: devices.jetson-agx-orin.experts.large.quality" in ended.err
    assert "less than or equal to 1" in ended.err


def test_the_fleet_may_be_that_of_a_running_gateway(simulate: Call, fake: FakeGateway) -> None:
    asked = (
        "--from-gateway",
        "--gateway",
        fake.target,
        "--arrivals",
        "poisson:30/s",
        "--duration",
        "10s",
        "-o",
        "json",
    )
    ended = simulate(*asked, fleet=None)
    assert ended.code == 0, ended.err
    document = json.loads(ended.out)
    assert document["base"]["all"]["answered_fraction"] > 0.9
    assert {node["node"] for node in document["base"]["nodes"]} <= set(NODES)
    assert document["base"]["idle_unknown"] == document["base"]["nodes_total"]
