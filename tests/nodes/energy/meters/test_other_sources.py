"""Zeus, traces and the sampler."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodes.energy.meters.replay import ReplayCounter
from nodes.energy.meters.sampler import Sampler
from nodes.energy.meters.zeus import ZeusCounter
from nodes.errors import ConfigError, EnergySourceMissing
from tests.fakes.energy.clock import FakeClock
from tests.fakes.energy.worlds import FakeZeus


def test_an_empty_zeus_measurement_is_unmeasured_not_zero() -> None:
    with pytest.raises(EnergySourceMissing, match="no device"):
        ZeusCounter(FakeZeus(empty=True))


def test_zeus_joules_of_all_devices_add_up() -> None:
    monitor = FakeZeus()
    counter = ZeusCounter(monitor)
    monitor.burned_j = 4.0
    assert counter.read_j() == pytest.approx(4.0)
    monitor.burned_j = 6.0
    assert counter.read_j() == pytest.approx(6.0)


def test_zeus_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> None:
        raise ImportError

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(EnergySourceMissing, match=r"edgewise\[energy\]"):
        ZeusCounter()


def test_a_trace_of_joules_is_followed_and_its_end_is_said(tmp_path: Path) -> None:
    file = tmp_path / "run.csv"
    file.write_text("time_s,energy_j\n5,100\n6,110\n8,130\n")
    clock = FakeClock()
    counter = ReplayCounter(file, clock=clock)
    clock.wait(2.0)
    assert counter.method == "replay:run"
    assert counter.read_j() == pytest.approx(20.0)
    clock.wait(1.5)
    with pytest.raises(EnergySourceMissing, match="ended"):
        counter.read_j()


@pytest.mark.parametrize(
    "text",
    ["", "time_s\n1\n2\n", "time_s,power_w\n1,2\n", "time_s,power_w\n2,1\n1,1\n", "time_s,energy_j\n1,5\n2,4\n",
     "time_s,power_w\n1,x\n2,1\n", "time_s,power_w\n1,nan\n2,1\n"],
)  # fmt: skip
def test_a_trace_that_does_not_fit_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.csv"):
        ReplayCounter(file)


def test_the_sampler_keeps_its_rate_and_survives_a_source_that_fails() -> None:
    clock = FakeClock(0.0)
    seen_s: list[float] = []

    def sample() -> None:
        seen_s.append(clock())
        if len(seen_s) == 3:
            raise EnergySourceMissing("gone for a moment")

    def wait(seconds: float) -> bool:
        clock.wait(seconds)
        return clock() > 1.0

    sampler = Sampler(sample, clock=clock, wait=wait)
    sampler.run()
    assert seen_s == pytest.approx([0.1 * tick for tick in range(len(seen_s))])
    assert 10 <= len(seen_s) <= 11
    assert sampler.samples == len(seen_s) - 1
    assert 0.0 <= sampler.cpu_fraction < 1.0
