"""Bundles to push: the sources as they are, and as they might become."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

from deploy.bundle.assemble import Recipe, gather, pack
from deploy.bundle.source import FILES, ROOMS, ROOT, build_wheel, project_version
from deploy.bundle.wheels import Target


def standalone_python(to: Path) -> Path | None:
    """The system's Python as an archive that can be unpacked anywhere; None where it is not laid out as Debian's is."""
    binary, library = Path("/usr/bin/python3.11"), Path("/usr/lib/python3.11")
    if not binary.exists() or not (library / "os.py").exists():
        return None
    left_out = ("test", "idlelib", "tkinter", "__pycache__", "dist-packages")
    with tarfile.open(to, "w:gz", compresslevel=1) as archive:
        archive.add(binary.resolve(), "python/bin/python3")
        archive.add(library, "python/lib/python3.11", filter=lambda entry: keep(entry, left_out))
    return to


def keep(entry: tarfile.TarInfo, left_out: tuple[str, ...]) -> tarfile.TarInfo | None:
    """An entry for an archive, unless its folder is to be left out, or it points out of it."""
    outward = entry.issym() and entry.linkname.startswith("/")
    return None if outward or set(Path(entry.name).parts) & set(left_out) else entry


def make_bundles(folder: Path) -> dict[str, Path]:
    """The sources as they are, a later version, one whose agent does not start, and one with a Python of its own."""
    target = Target(os.uname().machine, "3.11")
    wheels = gather(Recipe(target), folder)
    others = [wheel for wheel in wheels if not wheel.name.startswith("edgewise-")]
    bundles = {"first": folder / "first.tar", "later": folder / "later.tar", "broken": folder / "broken.tar"}
    pack(Recipe(target), wheels, bundles["first"])
    os.environ["EDGEWISE_NATIVE"] = "skip"
    for number, name in ((101, "later"), (102, "broken")):
        changed = changed_sources(folder / name, version=f"{project_version()}.post{number}", broken=name == "broken")
        own = build_wheel(folder / f"{name}-wheel", target.machine, root=changed)
        pack(Recipe(target), [own, *others], bundles[name])
    del os.environ["EDGEWISE_NATIVE"]
    if python := standalone_python(folder / "cpython-install_only.tar.gz"):
        bundles["brought"] = folder / "brought.tar"
        pack(Recipe(target, standalone_python=python), wheels, bundles["brought"])
    return bundles


def changed_sources(to: Path, *, version: str, broken: bool) -> Path:
    """A copy of the sources with another version; broken, its agents end as they start."""
    to.mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, to / name)
    for room in ROOMS:
        shutil.copytree(ROOT / room, to / room, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    project = to / "pyproject.toml"
    project.write_text(project.read_text().replace(f'version = "{project_version()}"', f'version = "{version}"'))
    if broken:
        run = to / "nodes" / "run.py"
        run.write_text(run.read_text() + '\n\nraise RuntimeError("broken on purpose")\n')
    return to
