from __future__ import annotations

from pathlib import Path

import pytest

from nodes.energy.rapl import RaplCounter, RaplMeter, measure_idle_w
from nodes.errors import EnergySourceMissing
from tests.contract.test_meters import FakeRapl


def test_the_counter_adds_packages_and_survives_wrap_around(tmp_path: Path) -> None:
    world = FakeRapl(tmp_path, range_uj=1_000_000)
    counter = RaplCounter(tmp_path)
    for _ in range(10):
        world.burn(1.5)
        counter.read_j()
    assert counter.read_j() == pytest.approx(15.0, rel=1e-9)


def test_idle_power_is_kept_apart_and_shares_plus_idle_are_the_counter(tmp_path: Path) -> None:
    world = FakeRapl(tmp_path)
    counter = RaplCounter(tmp_path)
    idle_w = measure_idle_w(counter, window_s=1.0, clock=lambda: world.now_s, wait=lambda _s: world.burn(4.0))
    assert idle_w == pytest.approx(10.0)
    meter = RaplMeter(counter, idle_w=4.0, clock=lambda: world.now_s)
    world.burn(3.0)
    first, second = meter.begin(), meter.begin()
    world.burn(2.0)
    one = meter.end(first, compute_ms=1.0, macs=1).energy_j or 0.0
    world.burn(1.0)
    two = meter.end(second, compute_ms=1.0, macs=1).energy_j or 0.0
    # 10 W flow, 4 W of them idle: 60 % of the joules are the work's.
    assert one == pytest.approx(0.6)
    assert two == pytest.approx(0.6 + 0.6)
    assert one + two + meter.idle_j == pytest.approx(3.0)


def test_idle_never_takes_more_than_was_counted(tmp_path: Path) -> None:
    world = FakeRapl(tmp_path)
    meter = RaplMeter(RaplCounter(tmp_path), idle_w=50.0, clock=lambda: world.now_s)
    span = meter.begin()
    world.burn(1.0)
    assert meter.end(span, compute_ms=1.0, macs=1).energy_j == 0.0
    assert meter.idle_j == pytest.approx(1.0)


def test_a_machine_without_the_counter_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(EnergySourceMissing, match="no CPU package counter"):
        RaplCounter(tmp_path)


def test_damaged_counters_are_named(tmp_path: Path) -> None:
    FakeRapl(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("")
    with pytest.raises(EnergySourceMissing, match="not a number"):
        RaplCounter(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    with pytest.raises(EnergySourceMissing, match="cannot be read"):
        RaplCounter(tmp_path)


def test_a_counter_for_root_only_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeRapl(tmp_path)
    real = Path.read_text

    # Tests may run as root, whom no file mode stops.
    def read_text(self: Path, *rest: object) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return real(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", read_text)
    with pytest.raises(EnergySourceMissing, match=r"sudo chmod a\+r"):
        RaplCounter(tmp_path)
