"""Finds the compiled library that the build hook put beside this file."""

from __future__ import annotations

import ctypes
from functools import cache

from optimizer.errors import NativeMissing

PATH = __file__.removesuffix("library.py") + "_native.so"


@cache
def _open() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(PATH)
    except OSError:
        return None


def available() -> bool:
    """Whether the library is there and loads."""
    return _open() is not None


def library() -> ctypes.CDLL:
    """The loaded library.

    Raises:
        NativeMissing: It is not there, or does not load on this machine.
    """
    found = _open()
    if found is None:
        raise NativeMissing("The compiled solver is not built here: install a C compiler, then reinstall edgewise.")
    return found


def digest() -> str:
    """SHA-256 of the sources that the library was built from.

    Raises:
        NativeMissing: There is no library.
    """
    function = library().edgewise_source_digest
    function.restype = ctypes.c_char_p
    return str(function().decode())
