from __future__ import annotations

import json
from pathlib import Path

import pytest

from nodes.arms import Inventory
from nodes.cli import main
from nodes.energy.discovery import EnergySource
from nodes.energy.meters.modelled import ModelledMeter
from nodes.energy.meters.unmeasured import UnmeasuredMeter
from nodes.errors import ConfigError
from nodes.survey import Plan, document, lines, survey, write
from tests.fakes.energy.worlds import profile
from tests.nodes.agent.engines import FakeEngine
from tests.nodes.conftest import MACS

PLAN = Plan(batches=(1, 4), concurrencies=(1, 2), seconds=0.01)


async def test_every_arm_is_measured_by_size_and_by_concurrency(inventory: Inventory) -> None:
    points = await survey(FakeEngine(), ModelledMeter(profile()), inventory, PLAN)
    tiny = [point for point in points if point.arm == "tiny:onnx-fp32"]
    assert [(point.batch, point.concurrency) for point in tiny] == [(1, 1), (4, 1), (1, 2)]
    assert tiny[1].energy_j == pytest.approx(1e-3 + 4 * MACS * 2e-6)
    line = next(line for line in lines(points) if line.arm == "tiny:onnx-fp32")
    assert line.fixed_j == pytest.approx(1e-3)
    assert line.per_sample_j == pytest.approx(MACS * 2e-6)


async def test_unknown_joules_are_written_as_null_with_problem_and_cure(inventory: Inventory, tmp_path: Path) -> None:
    points = await survey(FakeEngine(), UnmeasuredMeter(), inventory, PLAN)
    source = EnergySource(UnmeasuredMeter(), "box", False, "why", problem="root only", cure="chmod")
    write(tmp_path / "p.json", document(source, PLAN, points, made_unix_s=0.0))
    read = json.loads((tmp_path / "p.json").read_text())
    assert {point["energy_j"] for point in read["points"]} == {None}
    assert {line["per_sample_j"] for line in read["lines"]} == {None}
    assert (read["energy"]["problem"], read["energy"]["cure"]) == ("root only", "chmod")
    assert read["made"] == "1970-01-01T00:00:00Z"
    with pytest.raises(ConfigError, match="--to"):
        write(tmp_path / "none" / "p.json", read)


@pytest.mark.parametrize("batches", ["", "0", "1,x", "65"])
def test_sizes_that_do_not_fit_are_refused(batches: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "--batches", batches]) == 3
    assert "--batches" in capsys.readouterr().err
