"""Finds the compiled library that the build hook put beside this file, and the instruction sets that it can use."""

from __future__ import annotations

import ctypes
from enum import IntEnum
from functools import cache

from kernels.errors import KernelMissing

PATH = __file__.removesuffix("library.py") + "_native.so"


class Isa(IntEnum):
    """Instruction sets by their number in the compiled code; of those that run, the last is the fastest."""

    PLAIN = 0
    AVX2 = 1
    AVX512 = 2
    NEON = 3


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
        KernelMissing: It is not there, or does not load on this machine.
    """
    found = _open()
    if found is None:
        raise KernelMissing("The compiled kernels are not built here: install a C compiler, then reinstall edgewise.")
    return found


def digest() -> str:
    """SHA-256 of the sources that the library was built from.

    Raises:
        KernelMissing: There is no library.
    """
    function = library().edgewise_source_digest
    function.restype = ctypes.c_char_p
    return str(function().decode())


@cache
def runs(isa: Isa) -> bool:
    """Whether this build has code for `isa` and this processor can run it."""
    return available() and bool(library().edgewise_isa_runs(int(isa)))


def fastest() -> Isa:
    """The best instruction set here.

    Raises:
        KernelMissing: There is no library.
    """
    library()
    return max(isa for isa in Isa if runs(isa))


def chosen(isa: Isa | None) -> Isa:
    """`isa` itself, or the fastest where none is named.

    Raises:
        KernelMissing: That one does not run here.
    """
    library()
    if isa is not None and not runs(isa):
        raise KernelMissing(f"{isa.name} does not run on this machine. Name another, or none for the fastest.")
    return fastest() if isa is None else isa
