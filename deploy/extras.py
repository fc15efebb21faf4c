"""Check that the extras can be had: some are installed and used, each in an environment of its own, others resolved.

Run as ``python -m deploy.extras [--install cpu,ray,rtx] [--resolve] [--aarch64]``. What is not asked for is not run,
and the last line says so. Needs the package index.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Environment:
    """What is installed together, and what must work then.

    Attributes:
        packages: Beside the extras.
        proof: Arguments of the environment's Python, run in the project's folder.
    """

    extras: tuple[str, ...]
    proof: tuple[str, ...]
    packages: tuple[str, ...] = ()


RTX_TESTS = (
    "tests/nodes/compile/test_rtx.py",
    "tests/nodes/compile/test_module_names.py",
    "tests/nodes/pruning/test_rtx_buckets.py",
)
# The import first: without the module its tests would be skipped, and pass.
RTX_PROOF = f"import tensorrt_rtx, pytest; raise SystemExit(pytest.main(['-p', 'no:cacheprovider', *{RTX_TESTS}]))"
TRITON_TESTS = "tests/kernels/test_triton.py"
# Looked for and not imported: the tests choose the interpreter before they import Triton.
TRITON_PROOF = (
    "import importlib.util as found, pytest; assert found.find_spec('triton') and found.find_spec('torch');"
    f" raise SystemExit(pytest.main(['-p', 'no:cacheprovider', {TRITON_TESTS!r}]))"
)
RAY_PROOF = "import ray, orchestrator, nodes; assert tuple(map(int, ray.__version__.split('.')[:2])) >= (2, 54)"
INSTALLED = {
    "cpu": Environment(("node-cpu",), ("-m", "nodes", "doctor")),
    "ray": Environment(("ray",), ("-c", RAY_PROOF)),
    "rtx": Environment(
        ("node-cpu", "compile", "rtx"),
        ("-c", RTX_PROOF),
        ("pytest", "pytest-asyncio"),
    ),
    # No extra: nothing in serving uses it yet.
    "triton": Environment(
        ("node-cpu", "train"), ("-c", TRITON_PROOF), ("pytest", "pytest-asyncio", "hypothesis", "triton==3.9.0")
    ),
}
# Extras of the same environment would hide each other's conflicts.
RESOLVED = ("node-cuda", "gateway", "train", "personalize", "optimizer", "energy", "gpu", "compile", "demo")
# What the package index alone does not have.
ELSEWHERE = {"tensorrt": "its libraries come from NVIDIA's own index"}
AARCH64 = ("node-cpu", "compile", "gateway", "ray", "train", "optimizer", "gpu")
PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_26_aarch64", "manylinux_2_27_aarch64", "manylinux_2_28_aarch64")


def requirements(extra: str) -> Iterator[str]:
    """What an extra asks for, through the extras that it names."""
    for requirement in EXTRAS[extra]:
        if requirement.startswith("edgewise["):
            for other in requirement.removeprefix("edgewise[").rstrip("]").split(","):
                yield from requirements(other)
        else:
            yield requirement


def install(name: str, folder: Path) -> str:
    """Install into a fresh environment and run its proof; what pip or the proof said where it fails, else ""."""
    wanted = INSTALLED[name]
    python = folder / name / "bin" / "python"
    target = f"{ROOT}[{','.join(wanted.extras)}]"
    return (
        _said(sys.executable, "-m", "venv", str(folder / name))
        or _said(str(python), "-m", "pip", "install", "-q", "-c", str(CONSTRAINTS), target, *wanted.packages)
        or _said(str(python), *wanted.proof)
    )


def reachable() -> str:
    """What pip says where it has no package index, else ""."""
    return _said(*_dry_run(), "click")


def resolve(extra: str) -> str:
    """Whether pip finds a set of versions for an extra and the project's own needs."""
    return _said(*_dry_run(), *_own(), *requirements(extra))


def unobtainable(name: str) -> str:
    """What pip says where it finds no versions for one of the environments that are installed, else ""."""
    wanted = INSTALLED[name]
    extras = [requirement for extra in wanted.extras for requirement in requirements(extra)]
    return _said(*_dry_run(), "-c", str(CONSTRAINTS), *_own(), *extras, *wanted.packages)


def resolve_aarch64(extra: str) -> str:
    """The same with wheels for 64-bit ARM alone, such as a Jetson takes."""
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    with tempfile.TemporaryDirectory() as folder:
        only = ["--only-binary=:all:", "--python-version", "3.11", "--target", folder]
        return _said(*_dry_run(), *platforms, *only, *_own(), *requirements(extra))


def _dry_run() -> tuple[str, ...]:
    return (sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed")


def _own() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return list(project["dependencies"])


def _said(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return "" if done.returncode == 0 else "\n".join(lines[-12:]) or f"exit code {done.returncode}"


def _chosen(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = sorted(set(names) - set(INSTALLED))
    if unknown:
        raise click.BadParameter(f"no environment {unknown[0]!r}; there are {', '.join(INSTALLED)}")
    return names


@click.command()
@click.option("--install", "chosen", default="", metavar="A,B,…", help=f"Of {', '.join(INSTALLED)}.")
@click.option("--resolve", "resolving", is_flag=True, help="Resolve the other extras for this machine.")
@click.option("--aarch64", is_flag=True, help="Resolve extras for 64-bit ARM, from wheels alone.")
def main(chosen: str, resolving: bool, aarch64: bool) -> None:
    """Install, or resolve, the extras; the exit code is not 0 where one fails."""
    names = _chosen(chosen)
    with tempfile.TemporaryDirectory(prefix="extras-") as folder:
        checks: list[tuple[str, Callable[[], str]]] = []
        checks += [(f"install {name}", _bound(install, name, Path(folder))) for name in names]
        checks += [(f"resolve {extra}", _bound(resolve, extra)) for extra in RESOLVED if resolving]
        checks += [(f"aarch64 {extra}", _bound(resolve_aarch64, extra)) for extra in AARCH64 if aarch64]
        failed = sum(_failed(name, check) for name, check in checks)
    skipped = [f"install {name}" for name in INSTALLED if name not in names]
    skipped += [f"{extra} ({why})" for extra, why in ELSEWHERE.items()]
    skipped += [what for what, asked in (("resolve", resolving), ("aarch64", aarch64)) if not asked]
    click.echo(f"{len(checks) - failed} good, {failed} failed, not run: {', '.join(skipped) or 'nothing'}")
    sys.exit(1 if failed else 0)


def _bound(check: Callable[..., str], *arguments: object) -> Callable[[], str]:
    return lambda: check(*arguments)


def _failed(name: str, check: Callable[[], str]) -> bool:
    started_s = time.perf_counter()
    problem = check()
    click.echo(f"{name}: {'FAILED' if problem else 'good'} ({time.perf_counter() - started_s:.0f} s)")
    if problem:
        click.echo(problem)
    return bool(problem)


if __name__ == "__main__":
    main()
