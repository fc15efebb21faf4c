"""Keeps one command running: pauses, ends for good, one per folder, small logs. Real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from deploy import supervisor
from deploy.supervisor import ALREADY_RUNS, Files, keep_small, pause_s, read_environment

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a supervisor of a shell command in `tmp_path / "run"`."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(command: str, *options: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "deploy.supervisor", "--folder", str(tmp_path / "run"), *options]
        started.append(subprocess.Popen([*words, "--", "sh", "-c", command], stderr=subprocess.DEVNULL))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(10.0)


def pids(folder: Path, known: int | None = None) -> dict[str, int]:
    """What the supervisor notes, once its command runs, as another process than the `known` one."""
    end_s = time.monotonic() + 10.0
    while time.monotonic() < end_s:
        with suppress(OSError, ValueError):
            found = json.loads((folder / "run" / "pids.json").read_text())
            if found["agent"] not in (None, known):
                return dict(found)
        time.sleep(0.02)
    raise AssertionError("its command never ran")


def test_it_starts_again_what_dies_and_ends_it_when_told(start: Start, tmp_path: Path) -> None:
    process = start("exec sleep 60")
    first = pids(tmp_path)
    assert first["supervisor"] == process.pid
    os.kill(first["agent"], signal.SIGKILL)
    second = pids(tmp_path, known=first["agent"])
    process.terminate()
    assert process.wait(10.0) == 0
    assert not Path(f"/proc/{second['agent']}").exists()
    assert not (tmp_path / "run" / "pids.json").exists()
    assert "ended with code -9; again in" in (tmp_path / "run" / "log").read_text()


@pytest.mark.parametrize("code", supervisor.FINAL_CODES)
def test_what_trying_again_does_not_help_is_not_tried_again(start: Start, tmp_path: Path, code: int) -> None:
    assert start(f"echo refused >&2; exit {code}").wait(10.0) == code
    assert "refused\n" in (tmp_path / "run" / "log").read_text()


def test_a_second_one_in_the_same_folder_leaves(start: Start, tmp_path: Path) -> None:
    start("exec sleep 60")
    pids(tmp_path)
    assert start("exec sleep 60").wait(10.0) == ALREADY_RUNS


def test_the_command_gets_the_settings(start: Start, tmp_path: Path) -> None:
    settings = tmp_path / "node.env"
    settings.write_text('# ours\n\nNAME="kitchen table"\nOTHER=a=b\n')
    assert read_environment(settings) == {"NAME": "kitchen table", "OTHER": "a=b"}
    assert start('echo "got $NAME, $OTHER"; exit 2', "--environment", str(settings)).wait(10.0) == 2
    assert "got kitchen table, a=b\n" in (tmp_path / "run" / "log").read_text()


def test_the_command_may_finish_before_it_ends(start: Start, tmp_path: Path) -> None:
    process = start("trap 'sleep 0.3; echo finished; exit 0' TERM; echo ready; while :; do sleep 0.05; done")
    pids(tmp_path)
    end_s = time.monotonic() + 10.0
    while "ready" not in (tmp_path / "run" / "log").read_text() and time.monotonic() < end_s:
        time.sleep(0.02)
    process.terminate()
    assert process.wait(10.0) == 0
    assert "finished\n" in (tmp_path / "run" / "log").read_text()


def test_pauses_grow_to_a_minute() -> None:
    assert [pause_s(failures) for failures in (1, 2, 3, 7, 99)] == [1.0, 2.0, 4.0, 60.0, 60.0]


def test_a_log_that_grew_begins_anew_and_its_writer_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "MAX_LOG_BYTES", 10)
    log = Files(tmp_path).log
    with log.open("a") as writer:
        print("a long former part", file=writer, flush=True)
        keep_small(log)
        print("new", file=writer, flush=True)
        keep_small(log)
    assert log.read_text() == "new\n"
    assert log.with_suffix(".1").read_text() == "a long former part\n"
