"""What every benchmark shares: rows with their machine, bars as data, and an exit code that cannot lie.

A benchmark module defines ``run() -> list[Row]`` and ``BARS`` and ends with ``main(stem=..., run=run, bars=BARS)``.
Rows are printed and appended to ``tests/bench/results/<stem>.jsonl``. With ``--check`` the process exits 1 and names
every bar that does not hold; a bar whose metric was not measured counts as not held. A benchmark that needs the
evaluation data calls `evaluation_data` first: without it the process says ``not run`` and exits 77.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
NOT_RUN = 77


@dataclass(frozen=True)
class Row:
    """One measured figure; the unit is part of the row."""

    metric: str
    value: float
    unit: str
    sizes: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Bar:
    """A limit that a metric must respect. Bars are never loosened to pass."""

    metric: str
    limit: float
    sense: str

    def holds(self, value: float) -> bool:
        """Whether `value` is on the right side of the limit (a NaN never is)."""
        return value <= self.limit if self.sense == "<=" else value >= self.limit


def machine() -> dict[str, object]:
    """What the rows were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version()}


def commit() -> str:
    """The short commit that the tree stands on, with ``+`` when it has uncommitted changes."""
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if head.returncode != 0:
        return "unknown"
    dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], capture_output=True, text=True)
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def evaluation_data() -> Path:
    """Folder of the evaluation data, or exit 77 saying that the benchmark was not run."""
    folder = os.environ.get("EDGEWISE_EVAL_DATA")
    if not folder or not Path(folder).is_dir():
        print("not run: EDGEWISE_EVAL_DATA is not set to the folder of the evaluation data")
        raise SystemExit(NOT_RUN)
    return Path(folder)


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


@contextlib.contextmanager
def cores_awake() -> Iterator[bool]:
    """Keep the processor's cores from going to sleep while something is timed; yields whether this machine lets us.

    A core that has nothing to do halts, and waking it costs a virtual machine up to a tenth of a millisecond and cold
    caches, several times per call at one caller. Benchmarks of latency switch that off, as tuned's profile
    ``latency-performance`` does on servers: a latency of 0 is asked for as long as the device file stays open.
    Source: https://docs.kernel.org/power/pm_qos_interface.html
    """
    try:
        wish = os.open("/dev/cpu_dma_latency", os.O_WRONLY)
    except OSError:
        yield False
        return
    try:
        os.write(wish, (0).to_bytes(4, "little"))
        yield True
    finally:
        os.close(wish)


def record(stem: str, rows: Sequence[Row]) -> None:
    """Append the rows with date, commit and machine to the committed results file."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    origin = {"date": time.strftime("%Y-%m-%d"), "commit": commit(), "machine": machine()}
    with (RESULTS / f"{stem}.jsonl").open("a") as file:
        for row in rows:
            line = {"metric": row.metric, "value": row.value, "unit": row.unit, "sizes": row.sizes}
            file.write(json.dumps({**origin, **line}, allow_nan=False) + "\n")


def failures(rows: Sequence[Row], bars: Sequence[Bar]) -> list[str]:
    """One sentence per bar that does not hold."""
    values = {row.metric: row.value for row in rows}
    missed = []
    for bar in bars:
        if bar.metric not in values:
            missed.append(f"{bar.metric}: not measured, must be {bar.sense} {bar.limit:g}")
        elif not bar.holds(values[bar.metric]):
            missed.append(f"{bar.metric}: {values[bar.metric]:.4g}, must be {bar.sense} {bar.limit:g}")
    return missed


def main(*, stem: str, run: Callable[[], list[Row]], bars: Sequence[Bar]) -> None:
    """Run, print, record, check; ends the process. With ``--help`` it only tells what the benchmark says of itself."""
    if {"-h", "--help"} & set(sys.argv):
        print(sys.modules["__main__"].__doc__)
        raise SystemExit(0)
    rows = run()
    width = max(len(row.metric) for row in rows)
    for row in rows:
        print(f"{row.metric:<{width}}  {row.value:>12.5g} {row.unit}")
    if "--no-record" not in sys.argv:
        record(stem, rows)
    missed = failures(rows, bars)
    for line in missed:
        print(f"bar missed: {line}")
    print(f"{len(bars) - len(missed)} of {len(bars)} bars hold")
    raise SystemExit(1 if missed and "--check" in sys.argv else 0)
