"""Kinds of values on the command line: energies, durations, and what to do when nothing fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orchestrator.units import UnitError, parse_duration_ms, parse_energy_j, parse_power_w, parse_span_s

if TYPE_CHECKING:
    from orchestrator.client import Budget, LongRun

PROFILES = ("eco", "balanced", "best")
ON_INFEASIBLE = ("error", "best-effort", "cheapest")


class EnergyParam(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """Joules from texts such as 5mJ."""

    name = "energy"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Joules."""
        try:
            return parse_energy_j(str(value))
        except UnitError as error:
            return self.fail(f"{value!r}: {error}", param, ctx)


class DurationParam(click.ParamType):  # type: ignore[type-arg]
    """Milliseconds from texts such as 20ms."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Milliseconds, more than none."""
        if isinstance(value, float):
            return value
        try:
            duration_ms = parse_duration_ms(str(value))
        except UnitError as error:
            return self.fail(f"{value!r}: {error}", param, ctx)
        return duration_ms if duration_ms > 0 else self.fail("must be longer than nothing", param, ctx)


class SpanParam(click.ParamType):  # type: ignore[type-arg]
    """Seconds from texts such as 30d."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        if isinstance(value, float):
            return value
        try:
            return parse_span_s(str(value))
        except UnitError as error:
            return self.fail(f"{value!r}: {error}", param, ctx)


class PowerParam(click.ParamType):  # type: ignore[type-arg]
    """Watts from texts such as 5W."""

    name = "power"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Watts."""
        try:
            return parse_power_w(str(value))
        except UnitError as error:
            return self.fail(f"{value!r}: {error}", param, ctx)


class InfeasibleParam(click.Choice):  # type: ignore[type-arg]
    """error, best-effort or cheapest; best_effort, as it is written in files, is taken too."""

    def __init__(self) -> None:
        super().__init__(ON_INFEASIBLE)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The value as files and messages spell it."""
        return str(super().convert(str(value).replace("_", "-"), param, ctx)).replace("-", "_")


ENERGY = EnergyParam()
POWER = PowerParam()
DURATION = DurationParam()
SPAN = SpanParam()
INFEASIBLE = InfeasibleParam()


def make_budget(
    max_energy: float | None, max_latency: float | None, *, on_infeasible: str | None, profile: str | None
) -> Budget | None:
    """The budget of the options, None when none of them was given."""
    from orchestrator.client import Budget, OnInfeasible

    if max_energy is None and max_latency is None and on_infeasible is None and profile is None:
        return None
    return Budget(max_energy, max_latency, OnInfeasible(on_infeasible) if on_infeasible else None, profile)


def make_long_run(average_energy: float | None, average_power: float | None) -> LongRun | None:
    """The long-run budget of the options, None when none of them was given.

    Raises:
        click.UsageError: Both were given.
    """
    from orchestrator.client import LongRun

    if average_energy is not None and average_power is not None:
        raise click.UsageError("a long-run budget is --average-energy or --average-power, not both")
    if average_energy is None and average_power is None:
        return None
    return LongRun(average_energy, average_power)
