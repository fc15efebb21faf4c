"""Device profiles: constants from published measurements, for machines that have no sensor or are simulated.

A figure that comes from a profile is `modelled`, never `measured`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from nodes.errors import ConfigError, first_problem

PROFILES = Path(__file__).parent / "profiles"

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Text = Annotated[str, StringConstraints(min_length=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ProfileError(ConfigError):
    """A device profile is missing or malformed; the text says which and what would be right."""


@dataclass(frozen=True)
class Source:
    """Where the constants were published."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    title: Text
    submission: Text
    rows: tuple[Text, ...]


@dataclass(frozen=True)
class Noise:
    """How far the joules of a single inference stray from the constant, for simulated devices.

    Attributes:
        lognormal_sigma: Standard deviation of the logarithm of actual over predicted.
        outlier_fraction: Share of inferences that cost `outlier_factor` times as much on top.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    lognormal_sigma: Annotated[float, Field(ge=0, le=2)]
    outlier_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    outlier_factor: Annotated[float, Field(ge=1)] = 1.0


@dataclass(frozen=True)
class DeviceProfile:
    """What one inference costs on a device.

    Attributes:
        name: How commands refer to it.
        device: The hardware, in words.
        simulated: True where the machine that runs is not this device, so that every figure can say so.
        j_per_mac: Joules per multiply-accumulate, whole device.
        overhead_j: Joules per inference that do not depend on its size.
        idle_w: Watts at rest; None where no source gives them.
        derivation: How the constants follow from the source.
        noise: None for exact constants.
        active_w: Watts at full work, whole device; None where no source gives them.
        error_factor: How far joules of other work may be from what the constants say, as a factor either way.
        digest: sha256 of the file, so that a figure can name the constants it was made with; "" where there is no file.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: Name
    device: Text
    simulated: bool
    j_per_mac: Positive
    overhead_j: NotNegative
    idle_w: NotNegative | None
    source: Source
    derivation: Text
    noise: Noise | None = None
    active_w: NotNegative | None = None
    error_factor: Annotated[float, Field(ge=1)] = 2.0
    digest: Text | Literal[""] = ""

    def scaled(self, factor: float) -> DeviceProfile:
        """The same device with every constant times `factor`: how much hangs on what is not known."""
        return replace(self, j_per_mac=self.j_per_mac * factor, overhead_j=self.overhead_j * factor, digest="")

    def energy_j(self, macs: int) -> float:
        """Joules that one inference of `macs` multiply-accumulates is expected to take."""
        return self.overhead_j + self.j_per_mac * macs


def profile_names() -> tuple[str, ...]:
    """Names of the profiles that ship."""
    return tuple(sorted(path.stem for path in PROFILES.glob("*.json")))


def load_profile(name_or_path: str | Path) -> DeviceProfile:
    """Load a shipped profile by name, or any profile by the path of its JSON file.

    Raises:
        ProfileError: There is no such profile, or a key is unknown, missing or out of range.
    """
    path = _find(name_or_path)
    try:
        written = path.read_bytes()
        profile = TypeAdapter(DeviceProfile).validate_json(written)
        return replace(profile, digest=hashlib.sha256(written).hexdigest())
    except OSError as problem:
        raise ProfileError(f"Device profile {path} cannot be read: {problem.strerror}.") from None
    except ValidationError as refusal:
        raise ProfileError(f"Device profile {path}: {first_problem(refusal)}.") from None


def _find(name_or_path: str | Path) -> Path:
    if str(name_or_path) in profile_names():
        return PROFILES / f"{name_or_path}.json"
    path = Path(name_or_path)
    # A file in the working directory that happens to lack the suffix is not taken for a profile by accident.
    if path.suffix == ".json":
        return path
    raise ProfileError(
        f"No device profile {str(name_or_path)!r}. Known are {', '.join(profile_names())};"
        " or give the path of a .json file."
    )


def profile_idle_w(name: str | None) -> float | None:
    """Watts that a device draws while it is idle, by its profile; None without one or where it does not say."""
    return None if name is None else load_profile(name).idle_w
