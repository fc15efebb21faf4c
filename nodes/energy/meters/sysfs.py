"""Reading numbers from sysfs, with every failure explained."""

from __future__ import annotations

from pathlib import Path

from nodes.errors import EnergySourceMissing

UDEV_RULE = "deploy/udev/70-edgewise-energy.rules"


def read_text(file: Path) -> str:
    """What a file holds, without the white space around it.

    Raises:
        EnergySourceMissing: it may not be read (with the cure) or cannot be.
    """
    try:
        return file.read_text().strip()
    except PermissionError as error:
        raise EnergySourceMissing(
            f"{file} may only be read by root",
            cure=f"sudo chmod a+r {file} until the next start, or for good the udev rule {UDEV_RULE}",
        ) from error
    except OSError as error:
        raise EnergySourceMissing(f"{file} cannot be read: {error.strerror}") from error


def read_int(file: Path) -> int:
    """The whole number that a file holds.

    Raises:
        EnergySourceMissing: as `read_text`, or it holds something else.
    """
    text = read_text(file)
    try:
        return int(text)
    except ValueError as error:
        raise EnergySourceMissing(f"{file} holds something that is not a number") from error


def text_or_none(file: Path) -> str | None:
    """What a file holds; None where there is no such file or nothing can be read."""
    try:
        return file.read_text().strip()
    except OSError:
        return None
