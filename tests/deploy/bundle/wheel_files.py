"""Small wheels to put into bundles."""

from __future__ import annotations

import zipfile
from pathlib import Path

ELF_NUMBERS = {"x86_64": 62, "aarch64": 183}


def a_wheel(folder: Path, name: str, *, library: str | None = None, symbol: str = "GLIBC_2.17") -> Path:
    """A wheel of this file name; `library` is the processor of a library in it."""
    file = folder / name
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("thing/__init__.py"), "")
        if library is not None:
            header = b"\x7fELF" + bytes(14) + ELF_NUMBERS[library].to_bytes(2, "little")
            archive.writestr(zipfile.ZipInfo("thing/_native.so"), header + symbol.encode() + b"\0GLIBC_2.4\0")
    return file
