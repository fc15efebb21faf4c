"""Which implementation of which operation runs on this machine, and what keeps the others from it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from kernels.native.library import Isa, available, runs

COMPILED = ("masked_conv", "depthwise", "chain", "forked")
TRITON = ("masked_conv", "predictor", "gate")


@dataclass(frozen=True)
class Implementation:
    """One operation by one means.

    Attributes:
        name: ``masked_conv/avx2``.
        lacks: What is missing; "" where it runs.
    """

    name: str
    lacks: str = ""


def implementations() -> list[Implementation]:
    """All there are, instruction set by instruction set."""
    compiled = [Implementation(f"{op}/{isa.name.lower()}", _lacks(isa)) for op in COMPILED for isa in Isa]
    return [*compiled, *(Implementation(f"{op}/triton", _triton_lacks()) for op in TRITON)]


def described() -> str:
    """One line: what runs, and what does not and why."""
    found = implementations()
    here = [one.name for one in found if not one.lacks]
    absent: dict[str, list[str]] = {}
    for one in found:
        if one.lacks:
            absent.setdefault(one.lacks, []).append(one.name)
    told = [f"absent ({why}): {_listed(names)}" for why, names in absent.items()]
    return "; ".join([_listed(here) or "none", *told])


def _listed(names: Sequence[str]) -> str:
    """``chain/plain, chain/avx2`` as ``chain/plain+avx2``."""
    means: dict[str, list[str]] = {}
    for name in names:
        op, _, how = name.partition("/")
        means.setdefault(op, []).append(how)
    return ", ".join(f"{op}/{'+'.join(hows)}" for op, hows in means.items())


def _lacks(isa: Isa) -> str:
    if not available():
        return "no C compiler when edgewise was installed: install one, then reinstall edgewise"
    return "" if runs(isa) else "this processor lacks it"


def _triton_lacks() -> str:
    missing = [name for name in ("torch", "triton") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed" if missing else _device_lacks()


def _device_lacks() -> str:
    from kernels.errors import KernelMissing
    from kernels.gpu import require_usable

    try:
        require_usable()
    except KernelMissing as error:
        return str(error).rstrip(".")
    return ""
