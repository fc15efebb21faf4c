from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from nodes.energy.contract import Provenance
from nodes.energy.discovery import EnergyMode, EnergySource, Wanted, discover
from nodes.energy.profile import DeviceProfile
from nodes.energy.sources import Places
from nodes.errors import EnergySourceMissing
from tests.fakes.energy.powercap import FakeRapl
from tests.fakes.energy.worlds import profile

REAL = dataclasses.replace(profile(), simulated=False, device="this very box")


def _find(mode: EnergyMode, given: DeviceProfile | None, root: Path) -> EnergySource:
    places = Places(powercap=root, hwmon=root / "hwmon", idle_window_s=0.0)
    return discover(Wanted(mode, given), places)


def test_auto_takes_the_sensor_of_this_machine(tmp_path: Path) -> None:
    FakeRapl(tmp_path)
    for given in (None, REAL):
        source = _find(EnergyMode.AUTO, given, tmp_path)
        assert (source.meter.provenance, source.meter.method) == (Provenance.MEASURED, "rapl")
        assert not source.simulated
    assert source.device == "this very box"


def test_a_profile_of_another_device_is_never_measured_here(tmp_path: Path) -> None:
    FakeRapl(tmp_path)
    source = _find(EnergyMode.AUTO, profile(), tmp_path)
    assert source.meter.provenance is Provenance.MODELLED
    assert source.simulated
    assert "another device" in source.why


def test_auto_falls_back_to_the_profile_and_says_why(tmp_path: Path) -> None:
    source = _find(EnergyMode.AUTO, REAL, tmp_path)
    assert source.meter.provenance is Provenance.MODELLED
    assert "no CPU package counter" in source.why


def test_without_sensor_and_profile_joules_are_unmeasured_not_zero(tmp_path: Path) -> None:
    source = _find(EnergyMode.AUTO, None, tmp_path)
    reading = source.meter.end(source.meter.begin(), compute_ms=1.0, macs=1)
    assert reading.provenance is Provenance.UNMEASURED
    assert reading.energy_j is None
    assert source.device


def test_a_source_that_was_asked_for_is_never_replaced(tmp_path: Path) -> None:
    with pytest.raises(EnergySourceMissing, match="rapl"):
        _find(EnergyMode.RAPL, profile(), tmp_path)
    with pytest.raises(EnergySourceMissing, match="--profile"):
        _find(EnergyMode.MODELLED, None, tmp_path)
    FakeRapl(tmp_path)
    assert _find(EnergyMode.RAPL, profile(), tmp_path).meter.method == "rapl"
    assert _find(EnergyMode.MODELLED, REAL, tmp_path).meter.method == "profile:test"
