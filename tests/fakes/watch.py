"""Watches a running process from outside: which files it and its children open, which programs they become."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Calls that another thread's interrupted count as done: what came of them stands elsewhere.
DONE = r"(?:\) *= *\d|<unfinished)"
OPENED = re.compile(r'open(?:at|at2)?\([^"\n]*"([^"\n]*)"[^"\n]*?' + DONE)
BECAME = re.compile(r'execve(?:at)?\([^"\n]*"([^"\n]*)".*?' + DONE)
ATTACH_S = 10.0


@dataclass(frozen=True)
class Seen:
    """What was seen.

    Attributes:
        opened: Files that were opened, by their paths.
        became: Programs that ran.
    """

    opened: frozenset[str]
    became: tuple[str, ...]

    def outside(self, *allowed: str) -> set[str]:
        """Opened files that lie below none of these folders."""
        inside = (*allowed, *INTERPRETER)
        return {path for path in self.opened if path.startswith("/") and not path.startswith(inside)}


# What a Python interpreter and its libraries read when they start, and gRPC looks at now and then.
INTERPRETER = (
    *(str(Path(path).resolve()) for path in (sys.prefix, sys.base_prefix, *sys.path) if path),
    *(sys.prefix, "/usr/", "/lib", "/proc/", "/sys/", "/dev/null", "/dev/urandom"),
    *(
        "/etc/ld.so",
        "/etc/localtime",
        "/etc/nsswitch.conf",
        "/etc/resolv.conf",
        "/etc/hosts",
        "/etc/passwd",
        "/etc/os-release",
    ),
)


def available() -> bool:
    """Whether processes can be watched here."""
    return shutil.which("strace") is not None


class Watch:
    """What was seen so far; complete when the block has ended."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def seen(self) -> Seen:
        """Read it."""
        text = self._file.read_text(errors="replace")
        return Seen(
            frozenset(OPENED.findall(text)),
            tuple(BECAME.findall(text)),
        )


@contextlib.contextmanager
def watching(pid: int, file: Path) -> Iterator[Watch]:
    """Watch a process and all children that it starts meanwhile."""
    calls = "trace=open,openat,openat2,execve,execveat"
    popen = subprocess.Popen(["strace", "-f", "-e", calls, "-s", "4096", "-o", str(file), "-p", str(pid)])
    try:
        until_s = time.monotonic() + ATTACH_S
        while _tracer(pid) != popen.pid:
            assert time.monotonic() < until_s, "strace did not attach"
            time.sleep(0.02)
        yield Watch(file)
    finally:
        popen.terminate()
        popen.wait(10)


def _tracer(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"TracerPid:\s*(\d+)", status)[0])
