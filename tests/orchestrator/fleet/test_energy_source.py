"""What a node says about its energy source and its device, as the gateway takes it."""

from __future__ import annotations

import math

import pytest

from edgewise.v1 import fleet_pb2
from orchestrator.errors import RequestError
from orchestrator.fleet.wire import MAX_REMARK, MAX_THROTTLES, decode_hello, decode_signals
from orchestrator.types import EnergySource


def _hello(**fields: object) -> fleet_pb2.Hello:
    source = fleet_pb2.EnergySource(**fields)  # type: ignore[arg-type]
    return fleet_pb2.Hello(node="n1", energy_source=source)


def test_source_problem_and_cure_are_kept() -> None:
    hello = decode_hello(_hello(rate_hz=10.0, why="w", problem="root only", cure="chmod", profile_digest="ab"))
    assert hello.energy_source == EnergySource(10.0, "w", "root only", "chmod", "ab")


def test_a_node_of_an_older_version_says_nothing() -> None:
    assert decode_hello(fleet_pb2.Hello(node="n1")).energy_source == EnergySource()


def test_remarks_are_bounded_and_rates_are_numbers() -> None:
    assert len(decode_hello(_hello(problem="x" * 10_000)).energy_source.problem) == MAX_REMARK
    with pytest.raises(RequestError, match="rate_hz"):
        decode_hello(_hello(rate_hz=math.nan))


def test_signals_that_are_no_numbers_are_unknown() -> None:
    assert decode_signals(fleet_pb2.Heartbeat()) == (None, ())
    beat = fleet_pb2.Heartbeat(temperature_c=math.inf, throttles=["power-cap"] * 50)
    temperature_c, throttles = decode_signals(beat)
    assert temperature_c is None
    assert len(throttles) == MAX_THROTTLES
    assert decode_signals(fleet_pb2.Heartbeat(temperature_c=71.0)) == (71.0, ())
