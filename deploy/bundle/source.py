"""Makes our own wheel, for this processor or another, in a copy of the sources: the checkout stays as it is."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import version
from pathlib import Path

from deploy.errors import DeployError

ROOT = Path(__file__).parents[2]
FILES = ("pyproject.toml", "README.md", "LICENSE", "constraints.txt")
ROOMS = ("orchestrator", "nodes", "optimizer", "kernels", "proto", "deploy")
# Zip knows no earlier day; every file of the wheel gets it, so that equal sources make equal wheels.
EPOCH_S = "315532800"


def is_source(root: Path = ROOT) -> bool:
    """Whether these are sources and not an installed package."""
    return (root / "pyproject.toml").is_file()


def project_version(root: Path = ROOT) -> str:
    """Version of the sources, or of what is installed."""
    if not is_source(root):
        return version("edgewise")
    return str(tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"])


def build_wheel(to: Path, machine: str, *, root: Path = ROOT) -> Path:
    """Make the wheel for a processor into the folder `to`.

    Its C parts are compiled where there is a compiler for that processor; without one the wheel has none.

    Raises:
        DeployError: It cannot be made.
    """
    with tempfile.TemporaryDirectory(prefix="edgewise-wheel-") as folder:
        copied = _copy(root, Path(folder) / "source")
        made = Path(folder) / "made"
        # With hatchling at hand nothing is fetched.
        local = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", *local]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH_S, "EDGEWISE_NATIVE_MACHINE": machine}
        done = subprocess.run(
            [*command, "--wheel-dir", str(made), str(copied)], env=environment, capture_output=True, text=True
        )
        wheels = sorted(made.glob("edgewise-*.whl")) if made.is_dir() else []
        if done.returncode or not wheels:
            raise DeployError("wheel not built", _last_line(done.stderr), "pip install hatchling, or pass --wheel FILE")
        to.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(wheels[0], to / wheels[0].name))


def _copy(root: Path, to: Path) -> Path:
    to.mkdir()
    for name in FILES:
        shutil.copy(root / name, to / name)
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
    for room in ROOMS:
        shutil.copytree(root / room, to / room, ignore=ignored)
    return to


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
