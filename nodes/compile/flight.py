"""One builder at a time for each thing, among all threads and processes of this machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from nodes.compile.errors import CompileError


@contextlib.contextmanager
def alone(lock: Path, *, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock file; the kernel gives it back when its holder ends, however that happens.

    Args:
        on_wait: Called once where somebody else holds it.

    Raises:
        CompileError: There can be no such file.
    """
    with _opened(lock) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _opened(lock: Path) -> Iterator[int]:
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CompileError(f"{lock} cannot be locked: {(error.strerror or 'unknown cause').lower()}") from error
    try:
        yield handle
    finally:
        os.close(handle)
