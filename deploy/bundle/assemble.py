"""Puts a bundle together: our wheel, the wheels that it depends on, experts, and a Python where one comes along."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.bundle import archive, source
from deploy.bundle.archive import Bundle
from deploy.bundle.manifest import Manifest
from deploy.bundle.wheels import Target, check, native_glibc, parse_name
from deploy.errors import DeployError

# Tested versions; a copy lies beside the installed package.
CONSTRAINTS = (source.ROOT / "constraints.txt", Path(__file__).parents[1] / "constraints.txt")
# Installs the others where the machine's Python has no ensurepip (Debian and Ubuntu without python3-venv).
INSTALLER = "pip"
EXTRAS = ("node", "gateway", "gpu", "image", "compile", "rtx")


@dataclass(frozen=True)
class Recipe:
    """What goes into a bundle.

    Attributes:
        target: The machines that it is for.
        extras: Of the package, for the roles that the machine is to have.
        wheel: Our own wheel; None makes it from the sources, or asks the index for this version.
        models: Folder of experts; None for those that ship with the package.
        standalone_python: Archive of a Python (python-build-standalone, install_only); None for the machine's own.
    """

    target: Target
    extras: tuple[str, ...] = ("node",)
    wheel: Path | None = None
    models: Path | None = None
    standalone_python: Path | None = None


def assemble(recipe: Recipe, to: Path) -> Bundle:
    """Make a bundle at `to`. Needs the package index.

    Raises:
        DeployError: A wheel cannot be had or does not fit.
    """
    with tempfile.TemporaryDirectory(prefix="edgewise-bundle-") as folder:
        return pack(recipe, gather(recipe, Path(folder)), to)


def gather(recipe: Recipe, to: Path) -> list[Path]:
    """All wheels of a bundle, in the folder `to`.

    Raises:
        DeployError: One cannot be had.
    """
    _download(recipe, _own_wheel(recipe, to), to)
    return sorted(to.glob("*.whl"))


def pack(recipe: Recipe, wheels: Sequence[Path], to: Path) -> Bundle:
    """Check the wheels and write them, with what else the recipe names, into a bundle.

    Raises:
        DeployError: A wheel does not fit, or a file cannot be read.
    """
    glibc = max((check(wheel, recipe.target) for wheel in wheels), default=(0, 0))
    own = next((wheel for wheel in wheels if parse_name(wheel.name).name == "edgewise"), None)
    if own is None:
        raise DeployError("bundle not made", "there is no wheel of Edgewise among the wheels", "pass one with --wheel")
    files = {f"wheels/{wheel.name}": wheel for wheel in wheels}
    models = _models(recipe.models, files) if recipe.models else None
    python = _standalone(recipe.standalone_python, files) if recipe.standalone_python else None
    native = parse_name(own.name).platforms != ("any",)
    manifest = Manifest(
        version=parse_name(own.name).version,
        machine=recipe.target.machine,  # type: ignore[arg-type]  # checked by the model
        python=recipe.target.python,
        glibc=_text(glibc),
        extras=tuple(sorted(set(recipe.extras))),
        native=native,
        native_glibc=_text(native_glibc(own)) if native else None,
        models=models,
        standalone_python=python,
        files=archive.describe(files),
    )
    to.parent.mkdir(parents=True, exist_ok=True)
    return archive.write(to, manifest, files)


def _own_wheel(recipe: Recipe, to: Path) -> Path | None:
    if recipe.wheel is not None:
        copied = to / recipe.wheel.name
        copied.write_bytes(recipe.wheel.read_bytes())
        return copied
    return source.build_wheel(to, recipe.target.machine) if source.is_source() else None


def _download(recipe: Recipe, own: Path | None, to: Path) -> None:
    extras = ",".join(recipe.extras)
    wanted = (
        f"edgewise[{extras}]=={source.project_version()}" if own is None else f"edgewise[{extras}] @ {own.as_uri()}"
    )
    platforms = [word for tag in recipe.target.platforms() for word in ("--platform", tag)]
    if own is not None:
        # Our own wheel is tagged linux_MACHINE, which pip takes only when it is named.
        platforms += ["--platform", f"linux_{recipe.target.machine}"]
    tested = next((file for file in CONSTRAINTS if file.is_file()), None)
    limits = [] if tested is None else ["--constraint", str(tested)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    kind = ["--only-binary=:all:", "--implementation", "cp", "--python-version", recipe.target.python]
    abis = ["--abi", recipe.target.tag, "--abi", "abi3", "--abi", "none"]
    done = subprocess.run(
        [*command, *kind, *abis, *platforms, *limits, "--dest", str(to), wanted, INSTALLER],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip said nothing"]
        raise DeployError(
            "wheels not found", said[-1].removeprefix("ERROR: "), "look at the network, --python and --platform"
        )


def _models(folder: Path, files: dict[str, Path]) -> str:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    if not found:
        raise DeployError("bundle not made", f"{folder} holds no experts", "name a folder of experts with --models")
    for path in found:
        files[f"models/{folder.resolve().name}/{path.relative_to(folder).as_posix()}"] = path
    return f"models/{folder.resolve().name}"


def _standalone(file: Path, files: dict[str, Path]) -> str:
    files[f"python/{file.name}"] = file
    return f"python/{file.name}"


def _text(glibc: tuple[int, int]) -> str:
    return ".".join(map(str, glibc))
