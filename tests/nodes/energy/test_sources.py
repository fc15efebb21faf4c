"""Discovery over whole machines made of files and fakes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from nodes.energy.contract import Provenance
from nodes.energy.discovery import EnergyMode, RunsOn, Wanted, describe, discover
from nodes.energy.profile import load_profile
from nodes.energy.sources import Places
from nodes.errors import EnergySourceMissing
from tests.fakes.energy.jetson import agx_orin
from tests.fakes.energy.nvml import FakeGpu, FakeNvml
from tests.fakes.energy.permissions import forbid
from tests.fakes.energy.powercap import FakeRapl


def _no_wait(_seconds: float) -> None:
    return None


def places(root: Path, *, nvml: FakeNvml | None = None) -> Places:
    return Places(
        powercap=root / "powercap", hwmon=root / "hwmon", nvml=nvml or FakeNvml([]), wait=_no_wait, idle_window_s=0.3
    )


def test_a_boards_total_comes_before_the_processors_counter(tmp_path: Path) -> None:
    agx_orin(tmp_path / "hwmon").set_w("VDD_GPU_SOC", 6.0)
    FakeRapl(tmp_path / "powercap")
    source = discover(Wanted(EnergyMode.AUTO, None), places(tmp_path))
    assert (source.meter.method, source.rate_hz) == ("board_rails", 10.0)
    assert "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0" in source.why
    assert "10 Hz" in describe(source)


def test_a_gpus_counter_says_nothing_about_work_on_the_processor(tmp_path: Path) -> None:
    here = places(tmp_path, nvml=FakeNvml())
    assert discover(Wanted(EnergyMode.AUTO, None, RunsOn.CPU), here).meter.provenance is Provenance.UNMEASURED
    source = discover(Wanted(EnergyMode.AUTO, None, RunsOn.GPU), here)
    assert (source.meter.method, source.device, source.rate_hz) == ("nvml-energy", "Fake GPU", 10.0)
    assert source.signals().temperature_c == 55.0


def test_a_gpu_without_counter_is_sampled_and_its_duty_is_said(tmp_path: Path) -> None:
    here = places(tmp_path, nvml=FakeNvml([FakeGpu(capability=(9, 0), energy_mj=None)]))
    source = discover(Wanted(EnergyMode.NVML, None, RunsOn.GPU), here)
    assert (source.meter.method, source.rate_hz) == ("nvml-power", 10.0)
    assert "seen for 25% of the time" in source.why
    assert source.sampler is not None


def test_work_elsewhere_is_unmeasured_whatever_sensors_are_here(tmp_path: Path) -> None:
    FakeRapl(tmp_path / "powercap")
    agx_orin(tmp_path / "hwmon")
    here = places(tmp_path, nvml=FakeNvml())
    source = discover(Wanted(EnergyMode.AUTO, None, RunsOn.ELSEWHERE), here)
    assert source.meter.provenance is Provenance.UNMEASURED
    assert "another machine" in source.why
    with pytest.raises(EnergySourceMissing, match="another machine"):
        discover(Wanted(EnergyMode.RAPL, None, RunsOn.ELSEWHERE), here)


def test_a_counter_that_may_not_be_read_is_the_problem_and_has_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeRapl(tmp_path / "powercap")
    forbid(monkeypatch, "energy_uj")
    source = discover(Wanted(EnergyMode.AUTO, None), places(tmp_path))
    assert source.meter.provenance is Provenance.UNMEASURED
    assert "may only be read by root" in source.problem
    assert "udev" in source.cure
    assert "cure: sudo chmod a+r" in describe(source)


def test_a_trace_is_replayed_and_says_so(tmp_path: Path) -> None:
    trace = tmp_path / "run.csv"
    trace.write_text("time_s,power_w\n0,5\n1000,5\n")
    source = discover(Wanted(EnergyMode.REPLAY, None), dataclasses.replace(places(tmp_path), trace=trace))
    assert (source.meter.provenance, source.meter.method) == (Provenance.REPLAYED, "replay:run")
    with pytest.raises(EnergySourceMissing, match="--energy-trace"):
        discover(Wanted(EnergyMode.REPLAY, None), places(tmp_path))


def test_a_profile_is_known_by_its_digest_and_scales(tmp_path: Path) -> None:
    profile = load_profile("rtx-4090")
    source = discover(Wanted(EnergyMode.MODELLED, profile), places(tmp_path))
    assert source.digest == profile.digest
    assert len(profile.digest) == 64
    assert profile.digest[:12] in describe(source)
    assert profile.scaled(2.0).energy_j(1000) == pytest.approx(2.0 * profile.energy_j(1000))
    assert profile.scaled(0.5).digest == ""
