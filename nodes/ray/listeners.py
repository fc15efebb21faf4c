"""Which processes a folder's cluster has on this machine, and the ports on which they listen to every interface."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_LISTEN = "0A"
_ANYWHERE = {"0" * 8, "0" * 32}


def processes_of(folder: Path, proc: Path = Path("/proc")) -> set[int]:
    """Process ids of what names a session of the folder, or has a file of one open, and of all that they started.

    Some of Ray's processes change their command line; what is left of them when their parent dies has open logs.
    """
    parents, named = dict[int, int](), set[int]()
    session = os.fsencode(folder) + b"/session_"
    for entry in proc.iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            command = (entry / "cmdline").read_bytes()
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if session in command or any(name.startswith(session) for name in _open_files(entry / "fd")):
                named.add(int(entry.name))
    return named | {pid for pid in parents if _descends(pid, named, parents)}


def _descends(pid: int, ancestors: set[int], parents: dict[int, int]) -> bool:
    seen = set[int]()
    while pid in parents and pid not in seen:
        seen.add(pid)
        pid = parents[pid]
        if pid in ancestors:
            return True
    return False


def open_ports(pids: set[int], proc: Path = Path("/proc")) -> list[int]:
    """TCP ports on which these processes listen to every interface."""
    inodes = {inode for pid in pids for inode in _sockets(proc / str(pid) / "fd")}
    return sorted({port for port, inode in _listeners(proc) if inode in inodes})


def _sockets(folder: Path) -> Iterator[str]:
    return (
        name.removeprefix(b"socket:[").rstrip(b"]").decode()
        for name in _open_files(folder)
        if name.startswith(b"socket:[")
    )


def _open_files(folder: Path) -> Iterator[bytes]:
    with contextlib.suppress(OSError):
        for entry in folder.iterdir():
            with contextlib.suppress(OSError):
                yield os.readlink(os.fsencode(entry))


def _listeners(proc: Path) -> Iterator[tuple[int, str]]:
    """Port and inode of every socket that listens on the unspecified address."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (proc / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                address, _, port = fields[1].partition(":")
                if fields[3] == _LISTEN and address in _ANYWHERE:
                    yield int(port, 16), fields[9]
