"""Whether a wheel fits a machine: by the tags in its name, and by the processor that its libraries are for."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from deploy.errors import DeployError

MACHINES = ("x86_64", "aarch64")
PYTHONS = ("3.11", "3.12", "3.13")
# e_machine of the ELF header, at byte 18.
ELF_MACHINES = {62: "x86_64", 183: "aarch64"}
ELF_HEADER_BYTES = 20
# glibc that the older names of manylinux stand for.
LEGACY_GLIBC = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
_MANYLINUX = re.compile(r"(?:(manylinux(?:1|2010|2014))|manylinux_(\d+)_(\d+))_(\w+)")
_WHEEL = re.compile(
    r"(?P<name>[^-]+)-(?P<version>[^-]+)(?:-\d[^-]*)?-(?P<python>[^-]+)-(?P<abi>[^-]+)-(?P<platform>.+)\.whl"
)
_SYMBOL = re.compile(rb"GLIBC_(\d+)\.(\d+)")


@dataclass(frozen=True)
class Target:
    """A kind of machine: processor, Python and the oldest glibc that it may have."""

    machine: str
    python: str
    glibc: tuple[int, int] = (2, 28)

    @property
    def tag(self) -> str:
        """CPython's tag of the Python, such as cp311."""
        return "cp" + self.python.replace(".", "")

    def platforms(self) -> list[str]:
        """Platform tags that such a machine takes, newest first."""
        major, newest = self.glibc
        modern = [f"manylinux_{major}_{minor}_{self.machine}" for minor in range(newest, 16, -1)]
        return [*modern, f"manylinux2014_{self.machine}"]


@dataclass(frozen=True)
class WheelName:
    """The parts of a wheel's file name."""

    name: str
    version: str
    pythons: tuple[str, ...]
    abis: tuple[str, ...]
    platforms: tuple[str, ...]


def parse_name(file: str) -> WheelName:
    """The parts of a wheel's file name.

    Raises:
        DeployError: It is none.
    """
    match = _WHEEL.fullmatch(file)
    if match is None:
        raise DeployError("wheel refused", f"{file} is not the name of a wheel", "put only .whl files there")
    parts = (tuple(match[part].split(".")) for part in ("python", "abi", "platform"))
    return WheelName(match["name"], match["version"], *parts)


def glibc_of(platform: str, machine: str) -> tuple[int, int] | None:
    """The glibc that a platform tag asks for, (0, 0) where it asks for none; None if it is for another machine."""
    if platform in ("any", f"linux_{machine}"):
        return (0, 0)
    match = _MANYLINUX.fullmatch(platform)
    if match is None or match[4] != machine:
        return None
    return LEGACY_GLIBC[match[1]] if match[1] else (int(match[2]), int(match[3]))


def check(wheel: Path, target: Target) -> tuple[int, int]:
    """Make sure that a wheel fits; returns the glibc that it asks for, (0, 0) for any.

    Raises:
        DeployError: It is for another Python, platform or processor.
    """
    name = parse_name(wheel.name)
    if not _takes_python(name, target):
        raise _refused(wheel, f"it is for {'.'.join(name.pythons)}-{'.'.join(name.abis)}, not {target.tag}")
    needs = [found for tag in name.platforms if (found := glibc_of(tag, target.machine)) is not None]
    fitting = [need for need in needs if need <= target.glibc]
    if not fitting:
        newest = ".".join(map(str, target.glibc))
        raise _refused(wheel, f"it is for {'.'.join(name.platforms)}, not {target.machine} with glibc {newest}")
    foreign = sorted(set(_compiled_for(wheel)) - {target.machine})
    if foreign:
        raise _refused(wheel, f"it holds libraries for {', '.join(foreign)}, not {target.machine}")
    return min(fitting)


def native_glibc(wheel: Path) -> tuple[int, int]:
    """The newest glibc that a wheel's libraries ask for, by the versions of their symbols; (0, 0) without libraries."""
    found = [(0, 0)]
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if member.endswith(".so"):
                found += [(int(major), int(minor)) for major, minor in _SYMBOL.findall(archive.read(member))]
    return max(found)


def _takes_python(name: WheelName, target: Target) -> bool:
    if "abi3" in name.abis:
        oldest = [int(tag.removeprefix("cp3")) for tag in name.pythons if tag.startswith("cp3")]
        return any(minor <= int(target.python.partition(".")[2]) for minor in oldest)
    return bool({"py3", target.tag} & set(name.pythons)) and bool({"none", target.tag} & set(name.abis))


def _compiled_for(wheel: Path) -> list[str]:
    found = []
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if ".so" not in Path(member).name:
                continue
            with archive.open(member) as stream:
                header = stream.read(ELF_HEADER_BYTES)
            if header[:4] == b"\x7fELF":
                number = int.from_bytes(header[18:20], "little")
                found.append(ELF_MACHINES.get(number, f"ELF machine {number}"))
    return found


def _refused(wheel: Path, why: str) -> DeployError:
    return DeployError("wheel refused", f"{wheel.name}: {why}", "remove it, or name another --platform or --python")
