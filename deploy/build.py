"""Build hook of the package: compiles the C sources of each room into one shared library beside them.

A machine without a C compiler still installs; what is absent says so when it is asked for. ``EDGEWISE_NATIVE=require``
turns a missing compiler or a failed compilation into an error, ``EDGEWISE_NATIVE=skip`` compiles nothing, ``CC`` names
the compiler, and ``EDGEWISE_NATIVE_MACHINE`` another processor (``aarch64``) that the wheel is for.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOMS = ("optimizer/native", "nodes/energy/native", "kernels/native")
# No -march: the code picks its instruction set at run time. No fast-math: every machine computes the same bits.
FLAGS = (
    "-std=gnu11",
    "-O3",
    "-fPIC",
    "-shared",
    "-pthread",
    "-fno-math-errno",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-Wall",
    "-Wno-psabi",
)


def sources(folder: Path) -> list[Path]:
    """C files and headers of a room, in a fixed order."""
    return sorted([*folder.glob("*.c"), *folder.glob("*.h")])


def digest(folder: Path) -> str:
    """SHA-256 over names and contents of the sources; the library carries it, so that a stale one is recognised."""
    state = hashlib.sha256()
    for path in sources(folder):
        state.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return state.hexdigest()


def machine() -> str:
    """The processor that the wheel is for, as Linux calls it."""
    return os.environ.get("EDGEWISE_NATIVE_MACHINE") or platform.machine()


def compiler() -> str | None:
    """The C compiler to use; None where there is none."""
    named, wanted = os.environ.get("CC"), machine()
    known = ("cc", "gcc", "clang") if wanted == platform.machine() else (f"{wanted}-linux-gnu-gcc",)
    return named or next((found for name in known if (found := shutil.which(name))), None)


def compile_room(folder: Path, cc: str) -> Path:
    """Compile a room's sources into ``_native.so``; the new library replaces the old one in one step.

    Raises:
        subprocess.CalledProcessError: The compiler failed; its messages went to standard error.
    """
    target = folder / "_native.so"
    fresh = folder / f"_native.{os.getpid()}.so"
    names = [str(path) for path in sources(folder) if path.suffix == ".c"]
    try:
        subprocess.run([cc, *FLAGS, f'-DSOURCE_DIGEST="{digest(folder)}"', *names, "-o", str(fresh), "-lm"], check=True)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
    return target


def build(root: Path) -> list[Path]:
    """Compile every room, as far as this machine can.

    Raises:
        RuntimeError: It cannot, and ``EDGEWISE_NATIVE=require``.
    """
    wish = os.environ.get("EDGEWISE_NATIVE", "auto")
    if wish == "skip":
        return []
    cc = compiler()
    try:
        if cc is None:
            raise RuntimeError(f"no C compiler for {machine()} found (cc, gcc, clang); install one, or set CC")
        return [compile_room(root / room, cc) for room in ROOMS]
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        if wish == "require":
            raise RuntimeError(f"compiled parts could not be built: {error}") from error
        print(
            f"edgewise: installing without compiled parts ({error}); slower solvers, samplers and no kernels",
            file=sys.stderr,
        )
        return []


class NativeBuildHook(BuildHookInterface[Any]):
    """Called by hatchling for wheels and editable installs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and ship what was compiled."""
        built = build(Path(self.root))
        if version == "editable" or not built:
            return
        build_data["artifacts"] += [str(path.relative_to(self.root)) for path in built]
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-linux_{machine()}"
