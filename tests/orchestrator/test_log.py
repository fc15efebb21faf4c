"""The one line per request, in both of its forms."""

from __future__ import annotations

import json
import re

import pytest

from orchestrator.gateway.accounts import LINE, log_line
from orchestrator.journal import Entry
from orchestrator.log import RequestLog
from orchestrator.routing.plan import NO_CERTIFICATE
from orchestrator.types import AttemptRecord, Energy, FusionChoice, Provenance, RoutingRecord, Timings

ENERGY = Energy(0.25, Provenance.MEASURED, "rapl")
UNKNOWN = Energy(float("nan"), Provenance.UNMEASURED, "none")


def entry(energy: Energy = ENERGY, arms: tuple[str, ...] = ("a:x@n",)) -> Entry:
    attempts = tuple(AttemptRecord(arm, 0, 0.2, energy, 10.0, 12.0, "answered") for arm in arms)
    routing = RoutingRecord(attempts, FusionChoice.VOTE, 0.2, 10.00049, 0.3, 20.0, True, "p1", NO_CERTIFICATE)
    return Entry("r1", "chat", "answered", None, None, routing, energy, Timings(12.34567, 1.0, 0.5, 10.0, 0.0), 1.0)


@pytest.fixture
def requests() -> RequestLog:
    return RequestLog()


def test_a_line_for_people_names_every_value(requests: RequestLog, capsys: pytest.CaptureFixture[str]) -> None:
    requests.write(LINE, [log_line(entry()), log_line(entry(UNKNOWN, ("a:x@n", "b:y@m")))])
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"\S+T\S+\+00:00 \[info     \] request request_id=r1 task=chat outcome=answered arms=a:x@n fusion=vote "
        r"energy_j=0\.25 energy_source=measured predicted_j=0\.2 total_ms=12\.346 route_ms=1\.0 infer_ms=10\.0 "
        r"predicted_ms=10\.0 budget_met=True plan=p1",
        first,
    )
    assert "arms=a:x@n,b:y@m fusion=vote energy_j=None energy_source=unmeasured" in second


def test_a_line_for_machines_holds_the_same(requests: RequestLog, capsys: pytest.CaptureFixture[str]) -> None:
    requests.configure(form="json", level="info")
    requests.write(LINE, [log_line(entry())])
    line = json.loads(capsys.readouterr().err)
    assert list(line) == ["timestamp", "level", "event", *LINE]
    assert (line["level"], line["event"], line["request_id"], line["energy_j"]) == ("info", "request", "r1", 0.25)


def test_nothing_is_written_where_nobody_reads_it(requests: RequestLog, capsys: pytest.CaptureFixture[str]) -> None:
    requests.write(LINE, [])
    requests.configure(form="json", level="warning")
    requests.write(LINE, [log_line(entry())])
    assert not capsys.readouterr().err
