"""What every energy meter promises, run against every implementation, each over its real reader."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from nodes.energy.contract import EnergyReading, Provenance, Span
from nodes.energy.meters.late import LateMeter
from tests.fakes.energy.worlds import EVERY, LATE, MACS, World

Make = Callable[[Path], World]


@pytest.fixture(params=EVERY, ids=lambda make: make.__name__)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    make: Make = request.param
    return make(tmp_path)


def _final(world: World, ended: dict[Span, EnergyReading]) -> list[EnergyReading]:
    """The last word on each piece of work, in the order in which they ended."""
    world.settle()
    readings = [world.settled.get(span, first) for span, first in ended.items()]
    assert all(reading.final for reading in readings)
    return readings


def _overlapping(world: World) -> list[EnergyReading]:
    """Six runs of two arms, up to three at once, while joules burn; none burn outside of them."""
    ended: dict[Span, EnergyReading] = {}
    spans: list[Span] = []
    for step in range(8):
        if step < 6:
            spans.append(world.meter.begin(f"arm{step % 2}"))
        world.burn(4.0 * (step + 1))
        if step >= 2:
            span = spans.pop(0)
            ended[span] = world.meter.end(span, compute_ms=5.0, macs=MACS)
    return _final(world, ended)


def test_readings_are_finite_not_negative_and_say_where_they_come_from(world: World) -> None:
    readings = _overlapping(world)
    assert len(readings) == 6
    for reading in readings:
        assert reading.provenance is world.meter.provenance
        assert reading.method == world.meter.method
        assert math.isfinite(reading.uncertainty_j)
        assert reading.uncertainty_j >= 0.0
        known = world.meter.provenance is not Provenance.UNMEASURED
        assert (reading.energy_j is not None) == known
        if reading.energy_j is not None:
            assert math.isfinite(reading.energy_j)
            assert reading.energy_j > 0.0
        assert reading.idle_j is None or reading.idle_j >= 0.0


def test_shares_add_up_to_what_an_outsider_saw(world: World) -> None:
    readings = _overlapping(world)
    if world.truth_j is None:
        return
    total_j = sum(reading.energy_j or 0.0 for reading in readings)
    assert total_j == pytest.approx(world.truth_j(6), rel=world.tolerance)


@pytest.mark.parametrize("make", LATE, ids=lambda make: make.__name__)
def test_late_shares_and_idle_joules_are_the_meters_total(make: Make, tmp_path: Path) -> None:
    world = make(tmp_path)
    active_j = sum(reading.energy_j or 0.0 for reading in _overlapping(world))
    meter = world.meter
    assert isinstance(meter, LateMeter)
    assert active_j + meter.idle_j == pytest.approx(meter.total_j, rel=1e-9)


def test_more_work_is_never_cheaper_in_sum(world: World) -> None:
    spent_j = 0.0
    for _ in range(20):
        span = world.meter.begin("arm")
        world.burn(2.0)
        reading = world.meter.end(span, compute_ms=1.0, macs=MACS)
        before_j, spent_j = spent_j, spent_j + (reading.energy_j or 0.0)
        assert spent_j >= before_j


def test_a_span_ends_once(world: World) -> None:
    span = world.meter.begin()
    world.meter.end(span, compute_ms=1.0, macs=MACS)
    with pytest.raises(ValueError, match="span"):
        world.meter.end(span, compute_ms=1.0, macs=MACS)


def test_stages_add_up_to_the_whole(world: World) -> None:
    span = world.meter.begin("arm", "prefill")
    world.burn(10.0)
    world.meter.enter(span, "decode")
    world.burn(30.0)
    (reading,) = _final(world, {span: world.meter.end(span, compute_ms=1.0, macs=MACS)})
    if not reading.stages_j:
        assert world.meter.provenance in (Provenance.MODELLED, Provenance.UNMEASURED)
        return
    stages_j = dict(reading.stages_j)
    assert sum(stages_j.values()) == pytest.approx(reading.energy_j, rel=1e-9)
    assert stages_j["decode"] > stages_j["prefill"] > 0.0


def test_what_is_settled_is_settled_once(world: World) -> None:
    span = world.meter.begin("arm")
    world.burn(20.0)
    first = world.meter.end(span, compute_ms=1.0, macs=MACS)
    later = world.settle()
    assert [one.span for one in later] == ([] if first.final else [span])
    assert list(world.settle()) == []


def test_an_estimate_is_of_the_meters_own_kind_or_none(world: World) -> None:
    estimate = world.meter.estimate(MACS)
    if world.meter.provenance in (Provenance.MEASURED, Provenance.REPLAYED):
        assert estimate is None
        return
    assert estimate is not None
    assert (estimate.provenance, estimate.method) == (world.meter.provenance, world.meter.method)
