"""What a meter at the plug said about a board's own sensors, found once and kept in a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from nodes.errors import ConfigError, first_problem


@dataclass(frozen=True)
class Calibration:
    """Watts at the plug as a line over the sensor's watts.

    Attributes:
        factor: Slope.
        offset_w: Watts that the sensor does not see at all.
        source: What it was found with, and when.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    factor: Annotated[float, Field(gt=0.2, lt=5.0)] = 1.0
    offset_w: Annotated[float, Field(ge=0, le=100)] = 0.0
    source: str = ""

    def applied_w(self, power_w: float) -> float:
        """What the plug would show."""
        return self.factor * power_w + self.offset_w


def load_calibration(path: Path) -> Calibration:
    """Read a calibration file.

    Raises:
        ConfigError: it cannot be read, or a key is unknown or out of range.
    """
    try:
        return TypeAdapter(Calibration).validate_json(path.read_bytes())
    except OSError as problem:
        raise ConfigError(f"Calibration {path} cannot be read: {problem.strerror}.") from None
    except ValidationError as refusal:
        raise ConfigError(f"Calibration {path}: {first_problem(refusal)}.") from None
