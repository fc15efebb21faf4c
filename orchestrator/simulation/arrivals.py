"""When requests come: drawn as a Poisson process, or as a trace says.

A trace is brought to a wanted rate without inventing arrivals: its own times are laid end to end (tiled) to fill the
duration, as many copies as the rate needs are laid over each other, each turned by a random offset, and then requests
are left out at random (thinned) down to the rate. Bursts of the trace stay bursts; those of several copies mix.

Shape letter: q requests.
"""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.study.errors import StudyError

Floats = NDArray[np.float64]

MOST_REQUESTS = 20_000_000


@dataclass(frozen=True)
class Trace:
    """Recorded arrivals.

    Args:
        at_s_q: Seconds since the first, not falling.
        span_s: After how many seconds the trace begins again.
    """

    at_s_q: Floats
    span_s: float

    @property
    def rate_per_s(self) -> float:
        """Mean arrivals per second."""
        return len(self.at_s_q) / self.span_s


def poisson(rate_per_s: float, duration_s: float, rng: np.random.Generator) -> Floats:
    """Arrivals of a Poisson process within the duration.

    Raises:
        StudyError: More than `MOST_REQUESTS` are expected.
    """
    _check_count(rate_per_s * duration_s)
    count = int(rng.poisson(rate_per_s * duration_s))
    return np.sort(rng.uniform(0.0, duration_s, count))


def poisson_count(rate_per_s: float, count: int, rng: np.random.Generator) -> Floats:
    """The first `count` arrivals of a Poisson process."""
    _check_count(count)
    return np.cumsum(rng.exponential(1.0 / rate_per_s, count))


def tiled(trace: Trace, rate_per_s: float, duration_s: float, rng: np.random.Generator) -> Floats:
    """A trace brought to a rate; see the module.

    Raises:
        StudyError: More than `MOST_REQUESTS` are expected.
    """
    _check_count(rate_per_s * duration_s)
    copies = math.ceil(rate_per_s / trace.rate_per_s - 1e-9)
    laid = []
    for copy in range(copies):
        offset_s = rng.uniform(0.0, trace.span_s) if copy else 0.0
        turned_q = np.sort((trace.at_s_q + offset_s) % trace.span_s)
        tiles = math.ceil(duration_s / trace.span_s)
        laid.append((np.arange(tiles)[:, None] * trace.span_s + turned_q).ravel())
    at_s_q = np.sort(np.concatenate(laid))
    at_s_q = at_s_q[at_s_q < duration_s]
    keep = rate_per_s / (copies * trace.rate_per_s)
    return at_s_q if keep >= 1.0 else at_s_q[rng.random(len(at_s_q)) < keep]


def _check_count(count: float) -> None:
    if count > MOST_REQUESTS:
        raise StudyError(
            f"that makes {count:.3g} requests, more than {MOST_REQUESTS}",
            "ask for a shorter --duration or a lower rate",
            what="load refused",
        )


def read_trace(path: Path) -> Trace:
    """A trace from a CSV file, packed with gzip or not: column ``time_s`` (seconds) or ``TIMESTAMP`` (ISO dates).

    Raises:
        StudyError: Not readable, no such column, or fewer than two times.
    """
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(newline="") as file:
            reader = csv.DictReader(file)
            at_s_q = np.sort(np.fromiter(_times(reader, path), dtype=np.float64))
    except (OSError, UnicodeDecodeError) as error:
        why = (getattr(error, "strerror", None) or "it is no text file").lower()
        raise _refused(path, why, "check the path") from error
    if len(at_s_q) < 2 or not at_s_q[-1] > at_s_q[0]:
        raise _refused(path, "it has fewer than two different times", "give a longer trace")
    at_s_q -= at_s_q[0]
    # The pause between the last request and the first of the next tile is the trace's mean gap.
    return Trace(at_s_q, float(at_s_q[-1] * len(at_s_q) / (len(at_s_q) - 1)))


def _times(reader: csv.DictReader[str], path: Path) -> Iterator[float]:
    column = next((name for name in ("time_s", "TIMESTAMP") if name in (reader.fieldnames or ())), None)
    if column is None:
        raise _refused(path, "column time_s or TIMESTAMP is missing", "the first line names the columns")
    for row in reader:
        try:
            # Stamps of public traces have seven decimals; six can be read.
            at_s = float(row[column]) if column == "time_s" else datetime.fromisoformat(row[column][:26]).timestamp()
        except (TypeError, ValueError):
            at_s = math.nan
        if not math.isfinite(at_s):
            raise _refused(path, f"line {reader.line_num}, column {column} is {row[column]!r}", "write a time there")
        yield at_s


def _refused(path: Path, why: str, cure: str) -> StudyError:
    return StudyError(f"{path.name}: {why}", cure, what="trace refused")
