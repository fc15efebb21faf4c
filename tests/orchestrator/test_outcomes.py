"""What is written of feedback: once per request, within its bound, and without harm where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from orchestrator import outcomes
from orchestrator.journal import Entry
from orchestrator.outcomes import FILE, OLDER, Outcomes
from orchestrator.types import AttemptRecord, Energy, Provenance

NOTHING = Energy(0.0, Provenance.UNMEASURED, "none")


def entry(request_id: str = "r1", *, arms: tuple[str, ...] = ("small:v1@n1",), experts: int = 1) -> Entry:
    """A finished request; a route of several experts is a cascade."""
    attempts = tuple(AttemptRecord(arm, 0, 0.0, NOTHING, 0.0, 0.0, "answered") for arm in arms)
    route = SimpleNamespace(route=SimpleNamespace(experts=tuple(f"e{i}" for i in range(experts))))
    fields: dict[str, Any] = {"limits": None, "energy": NOTHING, "timings": None, "finished_s": 0.0}
    made = SimpleNamespace(
        request_id=request_id,
        task="digits",
        outcome="answered",
        decision=SimpleNamespace(route=route),
        routing=SimpleNamespace(attempts=attempts),
        **fields,
    )
    return cast("Entry", made)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def test_a_request_is_written_once(tmp_path: Path) -> None:
    kept = Outcomes(tmp_path, now_unix_s=lambda: 7.0)
    assert kept.rate(entry(), 0.25)
    assert not kept.rate(entry(), 1.0)
    (row,) = rows(tmp_path)
    assert (row["expert"], row["quality"], row["at_unix_s"], row["alone"]) == ("small", 0.25, 7.0, True)


@pytest.mark.parametrize(
    ("arms", "experts", "alone"),
    [
        (("a:v@n", "b:v@n"), 2, False),
        (("a:v@n",), 2, False),
        (("a:v@n", "a:v@m"), 1, True),
        (("a:v@n", "b:v@n"), 1, False),
    ],
)
def test_cascades_and_fusions_are_told_apart(tmp_path: Path, arms: tuple[str, ...], experts: int, alone: bool) -> None:
    Outcomes(tmp_path).rate(entry(arms=arms, experts=experts), 1.0)
    assert rows(tmp_path)[0]["alone"] is alone


def test_what_was_not_answered_is_not_written(tmp_path: Path) -> None:
    kept = Outcomes(tmp_path)
    refused = cast("Any", entry())
    refused.outcome = "NO_NODE"
    assert not kept.rate(refused, 1.0)
    assert not kept.rate(entry(arms=()), 1.0)
    assert not (tmp_path / FILE).exists()


def test_files_stay_within_their_bound(tmp_path: Path) -> None:
    kept = Outcomes(tmp_path, features=True, limit_bytes=8_000)
    for number in range(200):
        kept.answered_tensor(f"r{number}", np.full((8, 8), number / 200))
        assert kept.rate(entry(f"r{number}"), 1.0)
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 8_000
    assert {file.name for file in tmp_path.iterdir()} == {FILE, OLDER}
    assert rows(tmp_path)[-1]["request_id"] == "r199"
    assert len(rows(tmp_path)[-1]["sketch"]) == 37


def test_memory_stays_within_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "_WAITING", 3)
    kept = Outcomes(tmp_path, features=True)
    for number in range(5):
        kept.answered_tensor(f"r{number}", np.ones(64))
    kept.rate(entry("r0"), 1.0)
    kept.rate(entry("r4"), 1.0)
    assert ["sketch" in row for row in rows(tmp_path)] == [False, True]


def test_nothing_is_kept_where_it_is_off(tmp_path: Path) -> None:
    for kept in (Outcomes(None, features=True), Outcomes(tmp_path, features=True, limit_bytes=0)):
        kept.answered_tensor("r1", np.ones(64))
        assert not kept.rate(entry(), 1.0)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert not Outcomes(tmp_path / "file").rate(entry(), 1.0)


def test_features_that_fail_do_not_fail_the_request(tmp_path: Path) -> None:
    kept = Outcomes(tmp_path, features=True)
    kept.answered_tensor("r1", np.array(["text"] * 64))
    kept.answered_tensor("r2", np.ones(8))
    assert kept.rate(entry("r1"), 1.0)
    assert kept.rate(entry("r2"), 1.0)
    assert not any("sketch" in row for row in rows(tmp_path))
