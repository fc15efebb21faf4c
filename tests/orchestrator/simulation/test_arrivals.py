"""Arrivals: Poisson, and traces brought to a rate."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from orchestrator.simulation.arrivals import MOST_REQUESTS, Trace, poisson, poisson_count, read_trace, tiled
from orchestrator.study.errors import StudyError

# Two bursts of five within ten seconds, one arrival per second on the mean.
BURSTY = Trace(np.array([0.0, 0.1, 0.2, 0.3, 0.4, 5.0, 5.1, 5.2, 5.3, 5.4]), 10.0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_poisson_process_has_its_rate_and_its_spread() -> None:
    at_s_q = poisson(50.0, 400.0, rng())
    per_second = np.bincount(at_s_q.astype(int), minlength=400)
    assert len(at_s_q) == pytest.approx(20_000, rel=0.03)
    assert per_second.var() / per_second.mean() == pytest.approx(1.0, abs=0.2)
    assert (np.diff(at_s_q) >= 0).all()


def test_a_number_of_requests_may_be_asked_for() -> None:
    assert len(poisson_count(10.0, 1000, rng())) == 1000


def test_a_trace_at_its_own_rate_is_laid_end_to_end() -> None:
    at_s_q = tiled(BURSTY, 1.0, 20.0, rng())
    assert at_s_q.tolist() == [*BURSTY.at_s_q, *(10.0 + BURSTY.at_s_q)]


@pytest.mark.parametrize("rate_per_s", [0.3, 2.5, 7.0])
def test_a_trace_is_brought_to_a_rate(rate_per_s: float) -> None:
    at_s_q = tiled(BURSTY, rate_per_s, 2000.0, rng())
    assert len(at_s_q) / 2000.0 == pytest.approx(rate_per_s, rel=0.1)
    assert at_s_q.min() >= 0.0
    assert at_s_q.max() < 2000.0


def test_thinning_keeps_bursts() -> None:
    """Poisson arrivals of the same rate, the control, do not have them."""
    rate_per_s = 0.5

    def burstiness(at_s_q: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        per_second = np.bincount(at_s_q.astype(int), minlength=4000)
        return float(per_second.var() / per_second.mean())

    assert burstiness(tiled(BURSTY, rate_per_s, 4000.0, rng())) > 2.0
    assert burstiness(poisson(rate_per_s, 4000.0, rng())) < 1.3


def test_far_too_many_are_refused() -> None:
    with pytest.raises(StudyError, match=str(MOST_REQUESTS)):
        poisson(1e6, 1e6, rng())


def test_traces_are_read_packed_or_not(tmp_path: Path) -> None:
    plain = tmp_path / "plain.csv"
    plain.write_text("time_s,tokens\n3,1\n1.5,2\n4.5,3\n")
    trace = read_trace(plain)
    assert trace.at_s_q.tolist() == [0.0, 1.5, 3.0]
    assert trace.span_s == 4.5
    packed = tmp_path / "azure.csv.gz"
    rows = "TIMESTAMP,GeneratedTokens\n2023-11-16 18:15:46.6805900,44\n2023-11-16 18:15:50.9951690,109\n"
    packed.write_bytes(gzip.compress(rows.encode()))
    assert read_trace(packed).at_s_q == pytest.approx([0.0, 4.314579])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n", "column time_s or TIMESTAMP is missing"),
        ("time_s\n1\nsoon\n", "line 3, column time_s is 'soon'"),
        ("TIMESTAMP\n2023-11-16 18:15:46\nlater\n", "line 3, column TIMESTAMP is 'later'"),
        ("time_s\n1\n", "fewer than two different times"),
        ("time_s\n1\nnan\n", "line 3"),
        ("time_s,x\n1,2\n,2\n", "line 3"),
    ],
)
def test_what_is_wrong_with_a_trace_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(StudyError, match=says):
        read_trace(path)


def test_a_missing_trace_is_said(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such file"):
        read_trace(tmp_path / "absent.csv")
