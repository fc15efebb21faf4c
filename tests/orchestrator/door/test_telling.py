"""What the headers of a reply say, whatever a node has said."""

from __future__ import annotations

import math

import pytest

from orchestrator.door.head import header_lines
from orchestrator.door.telling import cost_lines
from orchestrator.types import (
    AttemptRecord,
    CertificateRecord,
    Energy,
    FusionChoice,
    Provenance,
    RoutingRecord,
    Timings,
)

TIMINGS = Timings(21.0, 1.0, 2.0, 3.0, 4.0)
PLANNED = CertificateRecord("optimal", 0.25, 7)


def attempt(arm: str, energy: Energy) -> AttemptRecord:
    return AttemptRecord(arm, 0, 0.1, energy, 1.0, 2.0, "answered")


def told(energy: Energy, *arms: str, fusion: FusionChoice = FusionChoice.NONE) -> dict[str, str]:
    attempts = tuple(attempt(arm, energy) for arm in arms)
    routing = RoutingRecord(attempts, fusion, 0.1, 1.0, 0.2, 2.0, True, "p", PLANNED)
    *lines, end = cost_lines(energy, routing, TIMINGS, profile="eco").split("\r\n")
    assert end == ""
    pairs = [line.split(": ", 1) for line in lines]
    assert len(pairs) == len(dict(pairs))
    return dict(pairs)


def test_what_an_answer_cost_is_told() -> None:
    assert told(Energy(1 / 3, Provenance.MEASURED, "rapl"), "a:v@n1") == {
        "x-edgewise-experts": "a@n1",
        "x-edgewise-fusion": "none",
        "x-edgewise-policy": "eco",
        "x-edgewise-certificate": "optimal;gap=0.25",
        "x-energy-joules": "0.333333333",
        "x-energy-method": "measured:rapl",
        "server-timing": "gate;dur=1.000, queue;dur=2.000, infer;dur=3.000, fuse;dur=4.000, total;dur=21.000",
    }


def test_all_experts_are_told_and_joules_that_nobody_knows_are_not() -> None:
    energy = Energy(math.nan, Provenance.UNMEASURED, "none")
    headers = told(energy, "a:v@n1", "b:v@n2", fusion=FusionChoice.VOTE)
    assert headers["x-edgewise-experts"] == "a@n1,b@n2"
    assert headers["x-edgewise-fusion"] == "vote"
    assert (headers["x-energy-joules"], headers["x-energy-method"]) == ("unmeasured", "unmeasured:none")
    assert told(energy)["x-edgewise-experts"] == ""


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n", "\r\n\r\n"])
def test_nothing_that_a_node_says_ends_a_header_early(end: str) -> None:
    plain = told(Energy(0.5, Provenance.MODELLED, "x"), "a:v@n")
    said = told(Energy(0.5, Provenance.MODELLED, f"x{end}set-cookie: y"), "a:v@n")
    assert said == plain | {"x-energy-method": f"modelled:x{' ' * len(end)}set-cookie: y"}
    assert header_lines({"a": f"b{end}c", "d": "e"}) == f"a: b{' ' * len(end)}c\r\nd: e\r\n"
