"""How results look: JSON for programs, tables for people, and every energy with where it comes from."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.units import format_duration_ms, format_energy_j

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from orchestrator.types import AttemptRecord, CertificateRecord, Energy

DEFAULT_WIDTH = 100


def print_json(value: Any) -> None:
    """Write a value to stdout as JSON: frozen values by their fields, what is not finite as null."""
    click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def plain(value: Any) -> Any:
    """A value as JSON knows it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    # Arrays and their scalars, and the dtype of a specification.
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def arms_line(attempts: Iterable[AttemptRecord]) -> str:
    """Who worked on an answer: `a + b` side by side, `a → b` one after the other; each place and arm once."""
    said, before = "", None
    for attempt in dict.fromkeys((one.stage, safe(one.arm), one.outcome == "answered") for one in attempts):
        beside = before is not None and before[0] == attempt[0] and before[2]
        said += f"{' + ' if beside else ' → ' if said else ''}{attempt[1]}"
        before = attempt
    return said or "none"


def console(*, color: bool) -> Console:
    """Where tables go: stdout, as wide as the terminal, 100 columns where there is none."""
    from rich.console import Console

    width = None
    if not sys.stdout.isatty():
        width = shutil.get_terminal_size((DEFAULT_WIDTH, 24)).columns if "COLUMNS" in os.environ else DEFAULT_WIDTH
    return Console(no_color=not color, highlight=False, width=width, soft_wrap=False)


def table(title: str | None, columns: Iterable[str]) -> Table:
    """A plain table; a column whose name starts with `>` is aligned to the right."""
    from rich import box
    from rich.table import Table

    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in columns:
        name, right = column.removeprefix(">"), column.startswith(">")
        made.add_column(name, justify="right" if right else "left", no_wrap=right, overflow="fold")
    return made


def safe(text: str) -> str:
    """Text of a peer, fit for a terminal: no control characters, no markup."""
    from rich.markup import escape

    return escape("".join(letter if letter.isprintable() else "?" for letter in text))


def energy_text(energy: Energy) -> str:
    """Joules with their source, e.g. ``2.1 µJ (modelled)``; nobody's guess stays a word."""
    if math.isnan(energy.energy_j):
        return "unmeasured"
    return f"{format_energy_j(energy.energy_j)} ({energy.provenance.value})"


def energy_or_dash(energy_j: float) -> str:
    """Joules, or a dash where there is no figure."""
    return format_energy_j(energy_j) if math.isfinite(energy_j) else "–"


def duration_or_dash(duration_ms: float) -> str:
    """Milliseconds, or a dash where there is no figure."""
    return format_duration_ms(duration_ms) if math.isfinite(duration_ms) else "–"


def percent(fraction: float) -> str:
    """A fraction as percent with one decimal, or a dash where there is no figure."""
    return f"{fraction * 100:.1f} %" if math.isfinite(fraction) else "–"


def device_text(device: str, *, simulated: bool) -> str:
    """A device's name; one that is only a profile says so, whatever the name says."""
    return f"{safe(device)} (simulated)" if simulated and "(simulated)" not in device else safe(device)


def certificate_text(certificate: CertificateRecord) -> str:
    """How good a plan is proven to be, and what its energy limit is worth."""
    parts = [f"{safe(certificate.status)} (gap {certificate.gap:g}, {certificate.explored} boxes explored)"]
    if certificate.mode:
        quality, bound = percent(certificate.quality_fraction), percent(certificate.bound_fraction)
        parts.append(f"{certificate.mode.replace('_', ' ')}: quality {quality}, none above {bound}")
    if certificate.price_per_j > 0.0:
        joules = format_energy_j(0.01 / certificate.price_per_j)
        parts.append(f"{joules} more would add a right answer in a hundred")
    return "; ".join(parts)
