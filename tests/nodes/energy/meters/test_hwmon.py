from __future__ import annotations

import json
from pathlib import Path

import pytest

from nodes.energy.meters.calibration import Calibration, load_calibration
from nodes.energy.meters.hwmon import JetsonGauge
from nodes.errors import ConfigError, EnergySourceMissing
from tests.fakes.energy.jetson import AGX_ORIN, FakeJetson, agx_orin, orin_nx, thor
from tests.fakes.energy.permissions import forbid


def test_orin_nx_has_one_total_and_parts_of_it_do_not_count_again(tmp_path: Path) -> None:
    board = orin_nx(tmp_path)
    board.set_w("VDD_IN", 8.0)
    board.set_w("VDD_CPU_GPU_CV", 5.0)
    gauge = JetsonGauge(tmp_path)
    assert gauge.method == "ina3221"
    assert gauge.read_w() == pytest.approx(8.0, abs=5e-3)


def test_agx_orin_sums_named_rails_and_says_so(tmp_path: Path) -> None:
    board = agx_orin(tmp_path)
    for label, power_w in (("VDD_GPU_SOC", 20.0), ("VDD_CPU_CV", 5.0), ("VIN_SYS_5V0", 4.0), ("VDDQ_VDD2_1V8AO", 1.5)):
        board.set_w(label, power_w)
    gauge = JetsonGauge(tmp_path)
    # The memory's supply comes out of VIN_SYS_5V0.
    assert gauge.method == "board_rails"
    assert gauge.read_w() == pytest.approx(29.0, abs=0.03)
    assert [rail.label for rail in gauge.rails] == ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]


def test_thor_takes_the_ina238(tmp_path: Path) -> None:
    board = thor(tmp_path)
    board.set_vin_w(41.25)
    gauge = JetsonGauge(tmp_path)
    assert gauge.method == "ina238"
    assert gauge.read_w() == pytest.approx(41.25)


def test_missing_rails_make_no_total(tmp_path: Path) -> None:
    FakeJetson(tmp_path, [AGX_ORIN[0][:2]])
    with pytest.raises(EnergySourceMissing, match="VDD_CPU_CV, VDD_GPU_SOC are there, but") as missing:
        JetsonGauge(tmp_path)
    assert "--profile" in missing.value.cure


def test_unknown_rails_and_no_sensor_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(EnergySourceMissing, match="no INA3221 or INA238"):
        JetsonGauge(tmp_path)
    FakeJetson(tmp_path, [[("VDD_STRANGE", 5000)]])
    with pytest.raises(EnergySourceMissing, match="VDD_STRANGE are of no board"):
        JetsonGauge(tmp_path)


def test_a_channel_that_is_switched_off_is_not_there(tmp_path: Path) -> None:
    orin_nx(tmp_path)
    (tmp_path / "hwmon1" / "in1_enable").write_text("0\n")
    with pytest.raises(EnergySourceMissing):
        JetsonGauge(tmp_path)


def test_current_that_may_not_be_read_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orin_nx(tmp_path)
    forbid(monkeypatch, "curr1_input")
    with pytest.raises(EnergySourceMissing, match="may only be read by root") as missing:
        JetsonGauge(tmp_path)
    assert "70-edgewise-energy.rules" in missing.value.cure


def test_a_calibration_is_applied_and_named(tmp_path: Path) -> None:
    orin_nx(tmp_path / "board").set_w("VDD_IN", 8.0)
    file = tmp_path / "plug.json"
    file.write_text(json.dumps({"factor": 1.1, "offset_w": 6.5, "source": "plug meter"}))
    gauge = JetsonGauge(tmp_path / "board", load_calibration(file))
    assert gauge.method == "ina3221+calibrated"
    assert gauge.read_w() == pytest.approx(1.1 * 8.0 + 6.5)
    assert Calibration().applied_w(3.0) == 3.0


@pytest.mark.parametrize("text", ['{"factor": 0.0}', '{"slope": 1}', "nothing"])
def test_a_calibration_that_does_not_fit_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "plug.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"plug\.json"):
        load_calibration(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_calibration(tmp_path / "none.json")
