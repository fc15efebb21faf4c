"""Device profiles: constants from published measurements, for machines that have no sensor or are simulated.

A figure that comes from a profile is `modelled`, never `measured`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from nodes.errors import ConfigError

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
        return TypeAdapter(DeviceProfile).validate_json(path.read_bytes())
    except OSError as problem:
        raise ProfileError(f"Device profile {path} cannot be read: {problem.strerror}.") from None
    except ValidationError as refusal:
        problems = refusal.errors(include_url=False, include_input=False)
        first = f"{'.'.join(map(str, problems[0]['loc'])) or 'the file'}: {problems[0]['msg']}"
        raise ProfileError(f"Device profile {path}: {first}.") from None


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
