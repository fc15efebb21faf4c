"""`edgewise energy`: what was spent, by whom and on what."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.context import Session, gateway_option, output_option
from orchestrator.cli.params import SPAN

if TYPE_CHECKING:
    from orchestrator.client.types import EnergyShare, SettlementRecord

BY = ("task", "tenant", "key", "arms", "outcome")
TOP = 10
EXPORT_TIMEOUT_MS = 600_000.0


last_option = click.option("--last", type=SPAN, default="1d", show_default=True, help="How far back, e.g. 7d.")


@click.group(short_help="Show and export what was spent.")
def energy() -> None:
    """Show and export what was spent. Every request is settled once: retries and cancelled work included."""


@energy.command()
@gateway_option
@last_option
@click.option("--by", type=click.Choice(BY), default="task", show_default=True, help="What is summed.")
@output_option
@click.pass_obj
def report(session: Session, *, last: float, by: str, output: str) -> None:
    """Sum what was spent."""
    with session.client() as client:
        _print(client.energy(last, by=by), session, by=by, output=output)


@energy.command()
@gateway_option
@last_option
@click.option("--by", type=click.Choice(BY), default="arms", show_default=True, help="What is ranked.")
@click.option("-n", "count", type=click.IntRange(min=1), default=TOP, show_default=True, help="How many.")
@output_option
@click.pass_obj
def top(session: Session, *, last: float, by: str, count: int, output: str) -> None:
    """Show who or what spent most."""
    with session.client() as client:
        _print(client.energy(last, by=by)[:count], session, by=by, output=output)


@energy.command()
@gateway_option
@last_option
@click.option("--format", "form", type=click.Choice(["csv", "parquet"]), default="csv", show_default=True)
@click.option("--to", type=click.Path(path_type=Path, dir_okay=False), help="A file; without it, csv goes to stdout.")
@click.pass_obj
def export(session: Session, *, last: float, form: str, to: Path | None) -> None:
    """Write every settlement as a row."""
    from orchestrator.cli.export import write_csv, write_parquet

    if form == "parquet" and to is None:
        raise click.UsageError("parquet needs a file: --to FILE")
    with session.client(EXPORT_TIMEOUT_MS) as client:
        rows: Iterable[SettlementRecord] = client.settlements(last)
        count = write_parquet(rows, to) if form == "parquet" and to is not None else write_csv(rows, to)
    session.note(f"{count} settlements")


def _print(shares: Sequence[EnergyShare], session: Session, *, by: str, output: str) -> None:
    from orchestrator.cli.output import console, print_json, safe, table
    from orchestrator.units import format_energy_j

    if output == "json":
        print_json([dataclasses.asdict(share) for share in shares])
        return
    rows = table(None, (by, ">requests", ">energy", ">per request", ">beyond reserved", ">tokens", ">unmeasured"))
    for share in shares:
        known = share.requests - share.unmeasured
        rows.add_row(
            safe(share.name) or "(none)",
            str(share.requests),
            format_energy_j(share.energy_j),
            format_energy_j(share.energy_j / known) if known else "–",
            format_energy_j(share.overshoot_j),
            str(share.tokens),
            str(share.unmeasured),
        )
    console(color=session.color).print(rows)
