"""Checks what a node needs before it can join, and says what to do about what is missing."""

from __future__ import annotations

import asyncio
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from kernels.implementations import described
from nodes.energy.discovery import EnergyMode, Wanted, describe, discover
from nodes.energy.profile import load_profile
from nodes.energy.sources import Places
from nodes.engines.process import WorkerCommand, WorkerProcess
from nodes.errors import ExitCode, NodeError
from nodes.identity.check import check_identities
from nodes.inventory import load_inventory
from nodes.packages import require_compatible
from nodes.worker.lockdown import probe

MIN_FREE_BYTES = 200 * 1024 * 1024
MIN_PYTHON = (3, 11)
START_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Check:
    """One finding; `exit_code` is what it is worth when it fails."""

    name: str
    ok: bool
    detail: str
    exit_code: ExitCode = ExitCode.OK


@dataclass(frozen=True)
class Subject:
    """What to check."""

    worker_python: Path
    models: Path | None
    profile: str | None
    energy: EnergyMode
    places: Places = field(default_factory=lambda: Places(idle_window_s=0.2))


def examine(subject: Subject) -> list[Check]:
    """All checks, in the order in which an operator would fix them. Takes a few seconds."""
    checks: list[tuple[str, Callable[[Subject], str]]] = [
        ("python", _python),
        ("packages", _packages),
        ("disk", _disk),
        ("catalogue", _catalogue),
        ("worker", _worker),
        ("kernels", _kernels),
        ("sandbox", _sandbox),
        ("energy", _energy),
        ("identity", _identity),
    ]
    return [_run(name, check, subject) for name, check in checks]


def exit_code(checks: list[Check]) -> ExitCode:
    """That of the first failed check, OK where none failed."""
    return next((check.exit_code for check in checks if not check.ok), ExitCode.OK)


def _run(name: str, check: Callable[[Subject], str], subject: Subject) -> Check:
    try:
        return Check(name, True, check(subject))
    except NodeError as error:
        return Check(name, False, error.message, error.exit_code)


def _python(_subject: Subject) -> str:
    if sys.version_info < MIN_PYTHON:
        raise NodeError(f"Python {platform.python_version()}; the agent needs 3.11 or newer")
    return f"Python {platform.python_version()}"


def _packages(_subject: Subject) -> str:
    require_compatible()
    return "none that clash"


def _disk(_subject: Subject) -> str:
    folder = Path.home()
    free_bytes = shutil.disk_usage(folder if folder.exists() else Path("/")).free
    if free_bytes < MIN_FREE_BYTES:
        raise NodeError(f"{free_bytes // 2**20} MiB free; keep {MIN_FREE_BYTES // 2**20} MiB")
    return f"{free_bytes // 2**20} MiB free"


def _catalogue(subject: Subject) -> str:
    inventory = load_inventory(subject.models, ())
    return f"{len(inventory.arms)} experts, all digests as stated"


def _worker(subject: Subject) -> str:
    return asyncio.run(_start_worker(subject.worker_python))


async def _start_worker(python: Path) -> str:
    command = WorkerCommand(python, slots=1)
    process = await WorkerProcess.start(command, timeout_s=START_TIMEOUT_S, on_death=lambda _process: None)
    found = process.ready.result()
    await process.close()
    return f"{python}: Python {found['python']}, numpy {found['numpy']}, onnxruntime {found['onnxruntime']}"


def _kernels(_subject: Subject) -> str:
    return described()


def _sandbox(_subject: Subject) -> str:
    found = probe()
    if found.enough:
        return f"{found.described()}: models that operators push run locked in"
    return f"{found.described()}: models that operators push are refused, unless --accept-models always takes them"


def _energy(subject: Subject) -> str:
    profile = None if subject.profile is None else load_profile(subject.profile)
    return describe(discover(Wanted(subject.energy, profile), subject.places))


def _identity(_subject: Subject) -> str:
    return check_identities()
