"""Benchmarks say what they are without running, and their exit code tells of every bar that does not hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import harness
from tests.bench.harness import Bar, Row, main

BARS = (Bar("ratio", 0.5, "<="), Bar("absent", 1.0, ">="))


def ended(run: list[Row] | None) -> int:
    def rows() -> list[Row]:
        if run is None:
            raise AssertionError("the benchmark ran")
        return run

    with pytest.raises(SystemExit) as end:
        main(stem="never", run=rows, bars=BARS)
    assert isinstance(end.value.code, int)
    return end.value.code


def test_help_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "--help"])
    assert ended(None) == 0


def test_a_bar_that_was_missed_or_not_measured_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["bench", "--check"])
    assert ended([Row("ratio", 0.6, "ratio"), Row("absent", 1.0, "s")]) == 1
    assert "ratio: 0.6, must be <= 0.5" in capsys.readouterr().out
    assert ended([Row("ratio", 0.4, "ratio")]) == 1
    assert "absent: not measured" in capsys.readouterr().out
    assert ended([Row("ratio", 0.4, "ratio"), Row("absent", 1.0, "s")]) == 0
    assert len((tmp_path / "never.jsonl").read_text().splitlines()) == 5
