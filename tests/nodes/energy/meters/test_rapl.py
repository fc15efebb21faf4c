from __future__ import annotations

from pathlib import Path

import pytest

from nodes.energy.contract import ShareRule
from nodes.energy.meters.counter import CounterMeter, measure_idle_w
from nodes.energy.meters.rapl import RaplCounter
from nodes.errors import EnergySourceMissing
from tests.fakes.energy.permissions import forbid
from tests.fakes.energy.powercap import FakeRapl


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
    meter = CounterMeter(counter, idle_w=4.0, clock=lambda: world.now_s)
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
    meter = CounterMeter(RaplCounter(tmp_path), idle_w=50.0, clock=lambda: world.now_s)
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
    forbid(monkeypatch, "energy_uj")
    with pytest.raises(EnergySourceMissing, match=r"sudo chmod a\+r"):
        RaplCounter(tmp_path)


def test_idle_power_is_followed_while_nothing_runs(tmp_path: Path) -> None:
    world = FakeRapl(tmp_path)
    meter = CounterMeter(RaplCounter(tmp_path), idle_w=4.0, clock=lambda: world.now_s)
    for _ in range(40):
        world.burn(5.0)
        meter.end(meter.begin(), compute_ms=0.0, macs=0)
    assert meter.idle_w == pytest.approx(10.0, rel=0.4)
    assert meter.idle_w > 6.0


def test_concurrent_arms_are_told_apart_once_their_watts_are_known(tmp_path: Path) -> None:
    """Arm a draws 2 W and arm b 18 W, alone and together; an equal split would give each half."""
    world = FakeRapl(tmp_path)
    meter = CounterMeter(RaplCounter(tmp_path), idle_w=0.0, clock=lambda: world.now_s)

    def flow(joules: float, seconds: float) -> None:
        world.burn(joules)
        world.now_s += seconds - joules / 10.0

    for _ in range(40):
        for arm, power_w in (("a", 2.0), ("b", 18.0)):
            span = meter.begin(arm)
            flow(power_w * 0.1, 0.1)
            meter.end(span, compute_ms=100.0, macs=1)
    one, two = meter.begin("a"), meter.begin("b")
    flow(2.0, 0.1)
    first, second = (meter.end(span, compute_ms=100.0, macs=1) for span in (one, two))
    assert (first.energy_j or 0.0) == pytest.approx(0.2, rel=0.05)
    assert (first.energy_j or 0.0) + (second.energy_j or 0.0) == pytest.approx(2.0)
    assert first.share is ShareRule.WEIGHTS


def test_dram_beside_the_packages_counts_and_psys_only_where_it_is_alone(tmp_path: Path) -> None:
    FakeRapl(tmp_path / "server", packages=2).add_top_zone("intel-rapl:3", "dram")
    assert RaplCounter(tmp_path / "server").names == ("package-0", "package-1", "dram")
    FakeRapl(tmp_path / "tablet", packages=0)
    alone = RaplCounter(tmp_path / "tablet")
    assert (alone.names, alone.method) == (("psys",), "rapl_psys")
