"""The journal forgets the oldest first and says what it cannot find."""

import pytest

from orchestrator.errors import RequestError
from orchestrator.journal import Entry, Journal
from orchestrator.routing.plan import NO_CERTIFICATE
from orchestrator.types import Energy, FusionChoice, Provenance, RoutingRecord, Timings


def an_entry(request_id: str, outcome: str = "answered") -> Entry:
    routing = RoutingRecord((), FusionChoice.NONE, 0.0, 0.0, 0.0, 0.0, True, "p-1", NO_CERTIFICATE)
    energy = Energy(0.0, Provenance.MODELLED, "")
    timings = Timings(0.0, 0.0, 0.0, 0.0, 0.0)
    return Entry(request_id, "digits", outcome, None, None, routing, energy, timings, 0.0)


def known(journal: Journal, request_id: str) -> bool:
    try:
        return journal.get(request_id).request_id == request_id
    except RequestError:
        return False


def test_only_the_newest_are_kept() -> None:
    journal = Journal(keep=3)
    for number in range(5):
        journal.add(an_entry(f"r{number}"))
    assert [known(journal, f"r{number}") for number in range(5)] == [False, False, True, True, True]


def test_a_repeated_id_replaces_the_older_and_counts_as_new() -> None:
    journal = Journal(keep=2)
    journal.add(an_entry("a", "NO_NODE"))
    journal.add(an_entry("b"))
    journal.add(an_entry("a"))
    journal.add(an_entry("c"))
    assert journal.get("a").outcome == "answered"
    assert not known(journal, "b")
    assert known(journal, "c")


def test_a_journal_that_keeps_nothing_finds_nothing() -> None:
    journal = Journal(keep=0)
    journal.add(an_entry("a"))
    with pytest.raises(RequestError) as caught:
        journal.get("a")
    assert caught.value.reason == "REQUEST_NOT_FOUND"
    assert caught.value.metadata == {"keep": "0"}


def test_keeping_fewer_forgets_the_oldest_at_once() -> None:
    journal = Journal(keep=3)
    for number in range(3):
        journal.add(an_entry(f"r{number}"))
    journal.resize(1)
    assert [known(journal, f"r{number}") for number in range(3)] == [False, False, True]
