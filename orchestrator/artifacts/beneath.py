"""Opens files of a folder that a stranger may have filled: never through a link, never outside the folder.

On Linux 5.6 and newer the kernel itself refuses (`openat2`); elsewhere every part of the path is opened on its own and
none may be a link. A file with a second name (a hard link) is refused too: whose content it is cannot be known.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import RequestError

OPENAT2 = 437
RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 0x04, 0x08
MAX_DEPTH = 8
# Reading must not wait for a pipe's other end.
FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    """A descriptor of a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def paths(folder: int, prefix: str = "", depth: int = 0) -> Iterator[str]:
    """Paths of everything below a folder that is no folder itself; names that begin with a dot are left out.

    Raises:
        RequestError: ARTIFACT_PATH_ESCAPE where a folder is a link.
    """
    if depth > MAX_DEPTH:
        raise RequestError("ARTIFACT_INVALID", f"The model's folder is more than {MAX_DEPTH} levels deep.")
    with os.scandir(folder) as entries:
        found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in found:
        if not entry.is_dir(follow_symlinks=True):
            yield prefix + entry.name
            continue
        below = os.open(entry.name, FLAGS | os.O_DIRECTORY, dir_fd=folder) if not entry.is_symlink() else -1
        if below < 0:
            raise _escape(prefix + entry.name, "is a link")
        try:
            yield from paths(below, f"{prefix}{entry.name}/", depth + 1)
        finally:
            os.close(below)


def open_file(folder: int, path: str, *, kernel: bool = True) -> int:
    """A descriptor of a plain file below a folder.

    Args:
        kernel: Whether `openat2` may be used; without it the parts are opened one by one.

    Raises:
        RequestError: ARTIFACT_PATH_ESCAPE or ARTIFACT_INVALID.
    """
    try:
        descriptor = _open_beneath(folder, path) if kernel else -1
        descriptor = _open_stepwise(folder, path) if descriptor < 0 else descriptor
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EXDEV, errno.ENOTDIR):
            raise _escape(path, "is or lies behind a link, or leads out of the folder") from error
        raise RequestError("ARTIFACT_INVALID", f"{_shown(path)} cannot be read.") from error
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        return descriptor
    os.close(descriptor)
    if stat.S_ISREG(found.st_mode):
        raise _escape(path, "has a second name (a hard link)")
    raise RequestError("ARTIFACT_INVALID", f"{_shown(path)} is no plain file.")


def _open_beneath(folder: int, path: str) -> int:
    """Through the kernel's own check; -1 where this kernel has none."""
    if not sys.platform.startswith("linux"):
        return -1
    how = _How(FLAGS & ~os.O_NOFOLLOW, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = int(libc.syscall(OPENAT2, folder, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how)))
    if descriptor >= 0:
        return descriptor
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EPERM):
        return -1
    raise OSError(code, os.strerror(code))


def _open_stepwise(folder: int, path: str) -> int:
    *parents, name = path.split("/")
    if path.startswith("/") or ".." in parents or name in ("", ".."):
        raise OSError(errno.EXDEV, "leads out of the folder")
    at = os.dup(folder)
    try:
        for part in parents:
            below = os.open(part, FLAGS | os.O_DIRECTORY, dir_fd=at)
            os.close(at)
            at = below
        return os.open(name, FLAGS, dir_fd=at)
    finally:
        os.close(at)


def _escape(path: str, why: str) -> RequestError:
    return RequestError("ARTIFACT_PATH_ESCAPE", f"{_shown(path)} {why}; put the file itself there.")


def _shown(path: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in path[:60])
