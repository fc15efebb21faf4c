"""What a bundle says of itself: `manifest.json`, the first file in it, with the SHA-256 of every other one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deploy.errors import DeployError

FORMAT = 1
MANIFEST = "manifest.json"
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
# Relative, and never upwards: what unpacks a bundle trusts these paths.
Inside = Annotated[str, Field(pattern=r"^(wheels|models|python)(/[A-Za-z0-9][A-Za-z0-9._+-]*)+$")]


class BundledFile(BaseModel):
    """One file of a bundle."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Inside
    sha256: Digest
    size_bytes: int = Field(ge=0)


class Manifest(BaseModel):
    """What is in a bundle and which machines it is for.

    Attributes:
        machine: Processor, as `uname -m` says it.
        python: Version that the wheels are for, such as 3.11.
        glibc: The oldest that all wheels run with.
        extras: Of the package, that its wheels are for.
        native: Whether our C parts are in it; where not, slower code stands in for them.
        native_glibc: The oldest glibc that they load with; older ones run without them.
        models: Folder of experts in it; null for those that ship with the package.
        standalone_python: Archive of a Python in it; null where the machine must have one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    version: str
    machine: Literal["x86_64", "aarch64"]
    python: str = Field(pattern=r"^3\.\d+$")
    glibc: str
    extras: tuple[Name, ...] = ("node",)
    native: bool
    native_glibc: str | None
    models: Inside | None = None
    standalone_python: Inside | None = None
    files: tuple[BundledFile, ...]

    def text(self) -> bytes:
        """As it lies in the bundle; equal manifests are equal bytes."""
        return (json.dumps(self.model_dump(), indent=1, sort_keys=True) + "\n").encode()


def parse_manifest(text: bytes, origin: Path) -> Manifest:
    """The manifest of a bundle.

    Raises:
        DeployError: It is not one.
    """
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise DeployError(
            "bundle refused", f"{origin}: {MANIFEST}: {place}: {first['msg']}", "make it anew: `edgewise deploy bundle`"
        ) from error
