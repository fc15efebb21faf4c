"""Keeps one command running where no service manager does: restarts it with growing pauses, writes pid and log.

``python -m deploy.supervisor --folder DIR [--environment FILE] -- COMMAND …``; SIGTERM ends the command, which may
finish what it does, and then this. Needs nothing but the standard library, so that it outlives a broken installation.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BASE_S, CAP_S = 0.5, 60.0
# Who ran so long was well: the next pause is short again.
WELL_S = 60.0
STOP_S = 45.0
TICK_S = 30.0
MAX_LOG_BYTES = 8 << 20
# It was drained, or usage, configuration, credentials: trying again does not help.
FINAL_CODES = (0, 2, 3, 5)
ALREADY_RUNS = 75


@dataclass(frozen=True)
class Files:
    """Where a supervisor writes."""

    folder: Path

    @property
    def lock(self) -> Path:
        """Held as long as it runs."""
        return self.folder / "lock"

    @property
    def pids(self) -> Path:
        """JSON: `supervisor` and `agent`, the latter null between two runs."""
        return self.folder / "pids.json"

    @property
    def log(self) -> Path:
        """What the command says, and what becomes of it."""
        return self.folder / "log"


def pause_s(failures: int) -> float:
    """How long to wait after so many runs in a row that ended early."""
    return min(CAP_S, BASE_S * 2.0 ** min(failures, 10))


def read_environment(file: Path) -> dict[str, str]:
    """NAME=VALUE lines, as `EnvironmentFile=` of systemd takes them; quotes around a value are dropped."""
    pairs = (line.partition("=") for line in file.read_text().splitlines() if line and not line.startswith("#"))
    return {name.strip(): value.strip().strip('"') for name, _, value in pairs}


class Supervisor:
    """One command, kept running until `stop`."""

    def __init__(self, files: Files, command: Sequence[str], environment: Path | None) -> None:
        self._files = files
        self._command = list(command)
        self._environment = environment
        self._stopping = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None

    def stop(self, *_: object) -> None:
        """End the command, then this; may be called from a signal handler."""
        self._stopping.set()
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def run(self) -> int:
        """Keep it running; returns the code of its last end."""
        failures = 0
        while True:
            started_s = time.monotonic()
            code = self._once()
            if self._stopping.is_set() or code in FINAL_CODES:
                self._say(f"it ended with code {code}; not started again")
                return 0 if self._stopping.is_set() else code
            failures = 0 if time.monotonic() - started_s > WELL_S else failures + 1
            self._say(f"it ended with code {code}; again in {pause_s(failures):g} s")
            self._stopping.wait(pause_s(failures))
            if self._stopping.is_set():
                return 0

    def _once(self) -> int:
        extra = read_environment(self._environment) if self._environment else {}
        with self._files.log.open("ab") as log:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **extra},
                start_new_session=True,
            )
        if self._stopping.is_set():
            self._child.terminate()
        self._note(self._child.pid)
        try:
            return self._wait(self._child)
        finally:
            self._note(None)

    def _wait(self, child: subprocess.Popen[bytes]) -> int:
        left_s = STOP_S
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(1.0 if self._stopping.is_set() else TICK_S)
            keep_small(self._files.log)
            left_s -= 1.0 if self._stopping.is_set() else 0.0
            if left_s <= 0.0:
                os.killpg(child.pid, signal.SIGKILL)

    def _note(self, agent: int | None) -> None:
        draft = self._files.pids.with_suffix(".tmp")
        draft.write_text(json.dumps({"supervisor": os.getpid(), "agent": agent}))
        draft.replace(self._files.pids)

    def _say(self, text: str) -> None:
        with self._files.log.open("a") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} supervisor: {text}\n")


def keep_small(log: Path) -> None:
    """Begin a log anew that has grown; one former part is kept. Who appends to it goes on at its new end."""
    if log.stat().st_size > MAX_LOG_BYTES:
        shutil.copyfile(log, log.with_suffix(".1"))
        os.truncate(log, 0)


def supervise(folder: Path, command: Sequence[str], environment: Path | None) -> int:
    """Run until told to stop; only one does in a folder."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = Files(folder)
    with files.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"another supervisor runs in {folder}", file=sys.stderr)
            return ALREADY_RUNS
        supervisor = Supervisor(files, command, environment)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, supervisor.stop)
        try:
            return supervisor.run()
        finally:
            files.pids.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Keep a command running.")
    parser.add_argument("--folder", type=Path, required=True, help="of lock, pids and log")
    parser.add_argument("--environment", type=Path, help="file of NAME=VALUE lines")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    return supervise(options.folder, options.command, options.environment)


if __name__ == "__main__":
    sys.exit(main())
