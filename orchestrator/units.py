"""Energies, powers and durations as people write them, and as people like to read them.

Energies are kept in joules, durations in milliseconds. Reading is strict: one number, one unit, no sign,
nothing that is not finite. A plain number is an energy in joules; a duration always needs its unit, because a
bare `20` has been read as seconds and as milliseconds by too many programs.
"""

from __future__ import annotations

import math
import re

MAX_ENERGY_J = 1e9
MAX_DURATION_MS = 3_600_000.0
MAX_POWER_W = 1e6

_NUMBER_AND_UNIT = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?[ \u00a0]?([A-Za-zµμ]*)")

_ENERGY_UNITS_J = {
    "nJ": 1e-9,
    "uJ": 1e-6,
    "µJ": 1e-6,
    "μJ": 1e-6,  # Greek mu: what some keyboards produce instead of the micro sign
    "mJ": 1e-3,
    "J": 1.0,
    "kJ": 1e3,
    "MJ": 1e6,
    "mWh": 3.6,
    "Wh": 3.6e3,
    "kWh": 3.6e6,
}
_DURATION_UNITS_MS = {
    "us": 1e-3,
    "µs": 1e-3,
    "μs": 1e-3,
    "ms": 1.0,
    "s": 1e3,
    "min": 6e4,
    "h": 3.6e6,
}
_SPAN_UNITS_S = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
MAX_SPAN_S = 366 * 86_400.0
_POWER_UNITS_W = {"uW": 1e-6, "µW": 1e-6, "μW": 1e-6, "mW": 1e-3, "W": 1.0, "kW": 1e3}
_POWER_LADDER = ((1e3, "kW"), (1.0, "W"), (1e-3, "mW"), (1e-6, "µW"))
_ENERGY_LADDER = ((1e6, "MJ"), (1e3, "kJ"), (1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"), (1e-9, "nJ"))
_DURATION_LADDER = ((6e4, "min"), (1e3, "s"), (1.0, "ms"), (1e-3, "µs"))


class UnitError(ValueError):
    """A text is not an energy or a duration; the message says what would be right."""


def parse_energy_j(text: str) -> float:
    """Read an energy such as ``5mJ``, ``3µJ``, ``1Wh`` or ``0.5`` (joules).

    Returns:
        Joules, between 0 and `MAX_ENERGY_J`.

    Raises:
        UnitError: Not a number with a known unit of energy, or out of range.
    """
    number, unit = _split(text, "energy", "5mJ, 20J, 3uJ or 1Wh")
    value_j = number * _factor(unit or "J", _ENERGY_UNITS_J, "energy")
    return _bounded(value_j, MAX_ENERGY_J, f"an energy is at most {MAX_ENERGY_J:g} J")


def parse_power_w(text: str) -> float:
    """Read a power such as ``5W``, ``500mW`` or ``0.5`` (watts).

    Returns:
        Watts, between 0 and `MAX_POWER_W`.

    Raises:
        UnitError: Not a number with a known unit of power, or out of range.
    """
    number, unit = _split(text, "power", "5W or 500mW")
    value_w = number * _factor(unit or "W", _POWER_UNITS_W, "power")
    return _bounded(value_w, MAX_POWER_W, f"a power is at most {MAX_POWER_W:g} W")


def parse_duration_ms(text: str) -> float:
    """Read a duration such as ``20ms``, ``1.5s`` or ``2min``.

    Returns:
        Milliseconds, between 0 and `MAX_DURATION_MS`.

    Raises:
        UnitError: No unit, an unknown unit, not a number, or out of range.
    """
    number, unit = _split(text, "duration", "20ms, 1.5s or 2min")
    if not unit:
        raise UnitError(f"a duration needs its unit; write {text.strip()}ms or {text.strip()}s")
    value_ms = number * _factor(unit, _DURATION_UNITS_MS, "duration")
    return _bounded(value_ms, MAX_DURATION_MS, f"a duration is at most {MAX_DURATION_MS / 1e3:g} s")


def parse_span_s(text: str) -> float:
    """Read a span of days such as ``30d``, ``24h`` or ``90s``.

    Returns:
        Seconds, more than 0 and at most `MAX_SPAN_S`.

    Raises:
        UnitError: No unit, an unknown unit, not a number, or out of range.
    """
    number, unit = _split(text, "span", "30d, 24h or 90min")
    if not unit:
        raise UnitError(f"a span needs its unit; write {text.strip()}h or {text.strip()}d")
    value_s = number * _factor(unit, _SPAN_UNITS_S, "span")
    if value_s <= 0.0:
        raise UnitError("a span must be longer than nothing")
    return _bounded(value_s, MAX_SPAN_S, f"a span is at most {MAX_SPAN_S / 86_400.0:g} days")


def format_energy_j(energy_j: float, digits: int = 3) -> str:
    """Write an energy with the prefix that leaves one to three digits before the point, e.g. ``2.1 µJ``."""
    return _format(energy_j, _ENERGY_LADDER, digits, zero="0 J")


def format_power_w(power_w: float, digits: int = 3) -> str:
    """Write a power with the prefix that leaves one to three digits before the point, e.g. ``2.1 mW``."""
    return _format(power_w, _POWER_LADDER, digits, zero="0 W")


def format_duration_ms(duration_ms: float, digits: int = 3) -> str:
    """Write a duration in µs, ms, s or min, e.g. ``3.4 ms``."""
    return _format(duration_ms, _DURATION_LADDER, digits, zero="0 ms")


def _split(text: str, kind: str, examples: str) -> tuple[float, str]:
    match = _NUMBER_AND_UNIT.fullmatch(text.strip())
    if match is None:
        raise UnitError(f"not {'an' if kind == 'energy' else 'a'} {kind}; write a number and a unit: {examples}")
    mantissa, exponent, unit = match.groups()
    return float(mantissa + (exponent or "")), unit


def _factor(unit: str, units: dict[str, float], kind: str) -> float:
    if unit in units:
        return units[unit]
    known = ", ".join(name for name in units if "μ" not in name)
    raise UnitError(f"unknown unit of {kind}; known are {known} (capitals matter)")


def _bounded(value: float, limit: float, message: str) -> float:
    # inf arrives here through exponents such as 1e999.
    if not math.isfinite(value) or value > limit:
        raise UnitError(message)
    return value


def _format(value: float, ladder: tuple[tuple[float, str], ...], digits: int, *, zero: str) -> str:
    if not math.isfinite(value):
        return "unknown"
    if value == 0:
        return zero
    # Rounding first, so that 999.96 mJ becomes 1 J and not 1000 mJ.
    rounded = float(f"{value:.{digits}g}")
    scale, unit = next((step for step in ladder if abs(rounded) >= step[0]), ladder[-1])
    return f"{_plain(rounded / scale, digits)} {unit}"


def _plain(number: float, digits: int) -> str:
    text = f"{number:.{digits}g}"
    return f"{float(text):.0f}" if "e" in text and abs(number) >= 1 else text
