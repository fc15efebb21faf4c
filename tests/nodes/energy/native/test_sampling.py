from __future__ import annotations

import threading
from pathlib import Path

import pytest

from deploy import build
from nodes.energy.native import sampling
from nodes.energy.native.sampling import NativeSampler

ROOT = Path(__file__).parents[4]
needs_library = pytest.mark.skipif(not sampling.available(), reason="not run: no compiled sampler (no C compiler)")


@needs_library
def test_the_library_was_built_from_these_sources() -> None:
    found = sampling.library()
    assert found is not None
    made = found.edgewise_source_digest().decode()
    assert made == build.digest(ROOT / "nodes/energy/native"), "stale library: run `make .venv/.installed`"


@needs_library
def test_numbers_of_all_files_come_in_the_order_of_time(tmp_path: Path) -> None:
    files = [tmp_path / "volts", tmp_path / "amperes"]
    files[0].write_text("5000\n")
    files[1].write_text("-40\n")
    seen: list[tuple[float, list[int]]] = []
    enough = threading.Event()
    sampler = NativeSampler(files, lambda times_s, rows: seen.extend(zip(times_s, rows, strict=True)), rate_hz=500.0)
    sampler.start()
    while len(seen) < 20:
        enough.wait(0.005)
        sampler.drain()
    sampler.stop()
    assert all(values == [5000, -40] for _, values in seen)
    times_s = [at_s for at_s, _ in seen]
    assert times_s == sorted(times_s)
    assert sampler.samples == len(seen)
    assert sampler.cpu_fraction == 0.0  # Stopped: nothing runs that could cost.


@needs_library
def test_a_file_that_is_not_there_is_said_and_nothing_is_sampled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sampler = NativeSampler([tmp_path / "none"], lambda _at, _values: None, rate_hz=100.0)
    sampler.start()
    sampler.drain()
    sampler.stop()
    assert sampler.samples == 0
    assert "cannot be opened" in capsys.readouterr().out


@needs_library
def test_a_file_that_holds_no_number_makes_no_sample(tmp_path: Path) -> None:
    file = tmp_path / "volts"
    file.write_text("nothing\n")
    sampler = NativeSampler([file], lambda _at, _values: None, rate_hz=1000.0)
    sampler.start()
    threading.Event().wait(0.01)
    sampler.drain()
    sampler.stop()
    assert sampler.samples == 0
