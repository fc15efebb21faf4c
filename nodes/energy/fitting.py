"""A device profile out of joules that were measured on a machine, for machines of its kind and for the simulator.

Shape letters: p points, each an arm at an input size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from nodes.energy.contract import Provenance
from nodes.energy.profile import DeviceProfile, Name, ProfileError, Source
from nodes.errors import first_problem

# Joules that were looked at, or come from a recording of such; others would say again what a profile has said.
WORTH = (Provenance.MEASURED.value, Provenance.REPLAYED.value)
_TOLD = ConfigDict(extra="ignore", allow_inf_nan=False)


@dataclass(frozen=True)
class Point:
    """Of `nodes.survey.Point`, what a profile follows from."""

    __pydantic_config__: ClassVar[ConfigDict] = _TOLD
    arm: str
    batch: int
    concurrency: int
    macs: int
    p50_ms: float
    energy_j: float | None
    idle_j: float | None
    provenance: str


@dataclass(frozen=True)
class Verified:
    """Of `nodes.verification.Agreement`, which arm and whether it agrees."""

    __pydantic_config__: ClassVar[ConfigDict] = _TOLD
    arm: str
    ok: bool


@dataclass(frozen=True)
class Sensor:
    """What the joules were measured with."""

    __pydantic_config__: ClassVar[ConfigDict] = _TOLD
    method: str
    provenance: str


@dataclass(frozen=True)
class Measured:
    """What `edgewise profile` or `edgewise node verify` wrote."""

    __pydantic_config__: ClassVar[ConfigDict] = _TOLD
    format: Literal[1]
    made: str
    device: str
    energy: Sensor
    points: tuple[Point, ...]
    verified: tuple[Verified, ...] = ()


def read_measured(path: Path) -> Measured:
    """What was measured.

    Raises:
        ProfileError: The file cannot be read, or is none of those.
    """
    try:
        return TypeAdapter(Measured).validate_json(path.read_bytes())
    except OSError as problem:
        raise ProfileError(f"{path} cannot be read: {problem.strerror}.") from None
    except ValidationError as refusal:
        raise ProfileError(
            f"{path}: {first_problem(refusal)}; give what `edgewise profile --to` or `edgewise node verify --to` wrote."
        ) from None


def fitted(measured: Measured, name: str) -> DeviceProfile:
    """Joules as so many for each multiply-accumulate and so many for each run; small arms count as much as large ones.

    Of a verification the verified arms count, of a survey all.

    Raises:
        ProfileError: Outputs differed, no joules were measured, or they do not grow with the work.
    """
    _check_name(name)
    wrong = [one.arm for one in measured.verified if not one.ok]
    if wrong:
        raise ProfileError(f"{wrong[0]} answers otherwise than ONNX Runtime there: its joules are of no use.")
    points = _points(measured)
    macs_p = np.array([point.macs * point.batch for point in points], float)
    energy_j_p = np.array([point.energy_j for point in points], float)
    overhead_j, j_per_mac = _line(macs_p, energy_j_p)
    ratio_p = (overhead_j + j_per_mac * macs_p) / energy_j_p
    return DeviceProfile(
        name=name,
        device=measured.device,
        simulated=measured.energy.provenance != Provenance.MEASURED.value,
        j_per_mac=j_per_mac,
        overhead_j=overhead_j,
        idle_w=_idle_w(points),
        source=Source(
            f"{measured.energy.provenance} by Edgewise on {measured.made}",
            f"{measured.device}, {measured.energy.method}",
            tuple(map(_row, points)),
        ),
        derivation=f"least squares of relative errors over {len(points)} points, both constants at least 0; joules are "
        f"active ones; idle watts are the median of idle joules over a run's milliseconds",
        error_factor=float(np.maximum(ratio_p, 1.0 / ratio_p).max()),
    )


def _row(point: Point) -> str:
    return f"{point.arm}, batch {point.batch} x {point.macs} MACs: {point.energy_j:.4g} J, {point.p50_ms:.4g} ms"


def _check_name(name: str) -> None:
    try:
        TypeAdapter[str](Name).validate_python(name)
    except ValidationError:
        raise ProfileError(
            f"{name!r} is no name of a profile: use small letters, digits, dots, dashes; --name gives one."
        ) from None


def _points(measured: Measured) -> list[Point]:
    sensor = measured.energy
    if sensor.provenance not in WORTH:
        raise ProfileError(
            f"joules are {sensor.provenance} there ({sensor.method}): measure on a machine with a sensor, with --energy"
            " nvml, jetson or rapl."
        )
    arms = {one.arm for one in measured.verified} or {point.arm for point in measured.points}
    found = [
        point
        for point in measured.points
        if point.arm in arms and point.concurrency == 1 and point.energy_j is not None and point.energy_j > 0.0
    ]
    if len({point.macs * point.batch for point in found}) < 2:
        raise ProfileError(
            "fewer than two sizes of work have joules that the sensor saw: measure longer (--seconds), with larger"
            " experts or --batches."
        )
    return found


def _line(macs_p: NDArray[np.float64], energy_j_p: NDArray[np.float64]) -> tuple[float, float]:
    """Joules of a run and of a multiply-accumulate, neither below 0."""
    shares = np.stack([1.0 / energy_j_p, macs_p / energy_j_p], axis=1)
    # Columns of one size: multiply-accumulates are millions, runs are one.
    scale = np.linalg.norm(shares, axis=0)
    solution, *_ = np.linalg.lstsq(shares / scale, np.ones(len(macs_p)), rcond=None)
    overhead_j, j_per_mac = (float(value) for value in solution / scale)
    if overhead_j < 0.0:
        overhead_j, j_per_mac = 0.0, float(shares[:, 1].sum() / (shares[:, 1] ** 2).sum())
    if j_per_mac <= 0.0:
        raise ProfileError(
            "joules do not grow with the work there: the sensor is too slow for it; measure longer (--seconds), with"
            " larger experts or --batches."
        )
    return overhead_j, j_per_mac


def _idle_w(points: list[Point]) -> float | None:
    watts = [point.idle_j / (point.p50_ms * 1e-3) for point in points if point.idle_j is not None and point.p50_ms > 0]
    return float(np.median(watts)) if watts else None
