"""Energies and durations: what is read, what is refused, and that written values read back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.units import (
    MAX_DURATION_MS,
    MAX_ENERGY_J,
    UnitError,
    format_duration_ms,
    format_energy_j,
    format_power_w,
    parse_duration_ms,
    parse_energy_j,
    parse_power_w,
)


@pytest.mark.parametrize(
    ("text", "energy_j"),
    [
        ("20J", 20.0),
        ("5mJ", 5e-3),
        ("3uJ", 3e-6),
        ("3µJ", 3e-6),
        ("3μJ", 3e-6),
        ("1Wh", 3600.0),
        ("0.5kJ", 500.0),
        ("7", 7.0),
        (" 1.5e-3 J ", 1.5e-3),
        (".5mJ", 5e-4),
        ("0", 0.0),
        ("1MJ", 1e6),
    ],
)
def test_reads_energies(text: str, energy_j: float) -> None:
    assert parse_energy_j(text) == pytest.approx(energy_j, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "duration_ms"), [("20ms", 20.0), ("1.5s", 1500.0), ("2min", 120_000.0), ("80us", 0.08)]
)
def test_reads_durations(text: str, duration_ms: float) -> None:
    assert parse_duration_ms(text) == pytest.approx(duration_ms, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "power_w"), [("5W", 5.0), ("500mW", 0.5), ("80uW", 8e-5), ("1.5kW", 1500.0), ("7", 7.0)]
)
def test_reads_and_writes_powers(text: str, power_w: float) -> None:
    assert parse_power_w(text) == pytest.approx(power_w, rel=1e-12)
    assert parse_power_w(format_power_w(power_w)) == pytest.approx(power_w)


@pytest.mark.parametrize("text", ["", "-5W", "nan", "5J", "5mw", "2e6W", "1e999W"])
def test_refuses_what_is_not_a_power(text: str) -> None:
    with pytest.raises(UnitError):
        parse_power_w(text)


BAD = ["", "J", "nan", "inf", "-5mJ", "-0.0", "+1J", "1e999J", "5 5J", "0x10", "1_000", "٣J", "5mJ;", "1,5J", "5 mj"]


@pytest.mark.parametrize("text", [*BAD, "2e9", "5ms"])
def test_refuses_what_is_not_an_energy(text: str) -> None:
    with pytest.raises(UnitError):
        parse_energy_j(text)


@pytest.mark.parametrize("text", [*BAD, "3601s", "5mJ", "2h"])
def test_refuses_what_is_not_a_duration(text: str) -> None:
    with pytest.raises(UnitError):
        parse_duration_ms(text)


def test_plain_number_is_no_duration_and_the_cure_is_named() -> None:
    with pytest.raises(UnitError, match="20ms or 20s"):
        parse_duration_ms("20")


def test_unknown_unit_lists_the_known_ones() -> None:
    with pytest.raises(UnitError, match="mJ, J, kJ, MJ"):
        parse_energy_j("5calories")


@pytest.mark.parametrize(
    ("energy_j", "text"),
    [(2.1e-6, "2.1 µJ"), (0.99996, "1 J"), (0.0, "0 J"), (999.0, "999 J"), (5e-10, "0.5 nJ"), (3e8, "300 MJ")],
)
def test_writes_energies_for_people(energy_j: float, text: str) -> None:
    assert format_energy_j(energy_j) == text


def test_writes_durations_for_people() -> None:
    written = [format_duration_ms(value_ms) for value_ms in (0.05, 3.42, 1500.0, 120_000.0, math.nan)]
    assert written == ["50 µs", "3.42 ms", "1.5 s", "2 min", "unknown"]


@given(st.floats(min_value=1e-12, max_value=MAX_ENERGY_J))
def test_energy_round_trip(energy_j: float) -> None:
    assert parse_energy_j(format_energy_j(energy_j, digits=15)) == pytest.approx(energy_j, rel=1e-12)


@given(st.floats(min_value=1e-6, max_value=MAX_DURATION_MS))
def test_duration_round_trip(duration_ms: float) -> None:
    assert parse_duration_ms(format_duration_ms(duration_ms, digits=15)) == pytest.approx(duration_ms, rel=1e-12)


@given(st.text(max_size=12))
def test_reading_never_yields_anything_but_a_bounded_number(text: str) -> None:
    try:
        value_j = parse_energy_j(text)
    except UnitError:
        return
    assert 0.0 <= value_j <= MAX_ENERGY_J
