"""What a compiled file depends on beside model and runtime: the processor's instructions, or GPU and driver."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
TEGRA = Path("/etc/nv_tegra_release")
# Of some hundred flags those that compute; the others change with kernels and microcode.
_COMPUTES = re.compile(r"^(sse4|avx|fma|f16c|amx|neon$|asimd|sve|fphp|i8mm|bf16)")


def cpu(cpuinfo: Path = CPUINFO) -> str:
    """The machine's architecture and the instructions that a model may be optimised for."""
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        text = ""
    line = next((line for line in text.splitlines() if line.lower().startswith(("flags", "features"))), "")
    flags = sorted({flag for flag in line.partition(":")[2].split() if _COMPUTES.match(flag)})
    return " ".join([platform.machine(), *flags])


def jetpack(release: Path = TEGRA) -> str:
    """The Jetson's release line; "" on other machines."""
    try:
        return release.read_text(errors="replace").splitlines()[0].strip()
    except (OSError, IndexError):
        return ""


def gpu(found: Mapping[str, Any], target: str) -> str:
    """The GPU that a worker found, or the one that is built for ("" where there is neither)."""
    if target:
        return f"sm{target} ahead of time"
    return f"sm{found['capability']} driver {found['driver']}" if found.get("capability") else ""
