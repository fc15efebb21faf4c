"""Reading numbers from sysfs, with every failure explained."""

from __future__ import annotations

import os
from pathlib import Path

from nodes.errors import EnergySourceMissing

UDEV_RULE = "deploy/udev/70-edgewise-energy.rules"
MOST_BYTES = 64


class NumberFile:
    """A file that holds a whole number and is read again and again: opened once, read from its start each time.

    A device that went away closes it; the next read opens it anew.

    Raises:
        EnergySourceMissing: it may not be read (with the cure), cannot be, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1
        self.read()

    def __del__(self) -> None:
        self._close()

    def read(self) -> int:
        """The number now. Cost: one system call."""
        if self._file < 0:
            self._file = _open(self.path)
        try:
            return int(os.pread(self._file, MOST_BYTES, 0))
        except ValueError as error:
            raise EnergySourceMissing(f"{self.path} holds something that is not a number") from error
        except OSError as error:
            self._close()
            raise EnergySourceMissing(f"{self.path} cannot be read: {error.strerror}") from error

    def _close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except PermissionError as error:
        raise EnergySourceMissing(
            f"{path} may only be read by root",
            cure=f"sudo chmod a+r {path} until the next start, or for good the udev rule {UDEV_RULE}",
        ) from error
    except OSError as error:
        raise EnergySourceMissing(f"{path} cannot be read: {error.strerror}") from error


def text_or_none(file: Path) -> str | None:
    """What a file holds; None where there is no such file or nothing can be read."""
    try:
        return file.read_text().strip()
    except OSError:
        return None
