"""`edgewise budget sweep` and `tune`: the frontier over joules and milliseconds per request, and a point of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.context import Session, output_option
from orchestrator.cli.evaluate import (
    ARMS,
    ENCODER,
    FILE,
    TABLE,
    TOKENIZER,
    WORKERS,
    chosen_workers,
    folds_for,
    load_encoder,
    load_placed,
    mapper,
)
from orchestrator.cli.idle import idle_options, read_idling
from orchestrator.cli.params import DURATION, ENERGY

if TYPE_CHECKING:
    from optimizer.study.limits import Point

# Quality that may be given away for joules when nothing else is asked for.
_LEVEL = 0.003


@click.command()
@TABLE
@ARMS
@ENCODER
@TOKENIZER
@idle_options
@WORKERS
@output_option
@click.pass_obj
def sweep(session: Session, /, *, table: Path, arms: Path, output: str, **asked: Any) -> None:
    """Show the quality within limits of joules and milliseconds per request.

    Limits are hard and hold for each request, as in the configuration and in `edgewise infer`.
    """
    _print(_swept(session, table, arms, asked), session, output)


@click.command()
@TABLE
@ARMS
@ENCODER
@TOKENIZER
@click.option("--min-quality", type=click.FloatRange(0.0, 1.0), help="Fewest joules at this mean quality, 0 to 1.")
@click.option("--max-energy", type=ENERGY, help="Best quality within these joules per request.")
@click.option("--max-latency", type=DURATION, help="Best quality within this time per request.")
@click.option("--task", default="", help="Write it for one task; without it, the default of all tasks.")
@click.option("--config", "file", type=FILE, required=True, help="Configuration file to write the limits into.")
@click.option("--dry-run", is_flag=True, help="Show the point, write nothing.")
@idle_options
@WORKERS
@output_option
@click.pass_obj
def tune(
    session: Session,
    /,
    *,
    table: Path,
    arms: Path,
    min_quality: float | None,
    max_energy: float | None,
    max_latency: float | None,
    task: str,
    file: Path,
    dry_run: bool,
    output: str,
    **asked: Any,
) -> None:
    """Pick limits and write them into a configuration file.

    Without a wish, the fewest joules within 0.3 points of the best quality.
    """
    from orchestrator.study.budgets_file import write_limits

    within = _wished(_swept(session, table, arms, asked), max_energy, max_latency)
    point = _picked(within, min_quality)
    _print([point], session, output)
    if dry_run:
        session.note("nothing written")
        return
    write_limits(file, task, max_energy_j=point.max_energy_j, max_latency_ms=point.max_latency_ms)
    session.note(f"written into {file}; a gateway reads it when it starts")


def _swept(session: Session, table: Path, arms: Path, asked: dict[str, Any]) -> list[Point]:
    choice = chosen_workers(asked)
    from optimizer.study.limits import Places, frontier, limit_grid, sweep_limits

    sentences = load_encoder(asked["encoder"], asked["tokenizer"])
    loaded, node_m = load_placed(session, table, arms)
    idling = read_idling(session, asked, set(node_m))
    places = None if idling is None else Places(node_m, idling.stays)
    limits = [
        (energy_j, latency_ms)
        for energy_j in limit_grid(loaded.joules_qm, 9)
        for latency_ms in limit_grid(loaded.ms_qm, 6)
    ]
    folds = folds_for(loaded)
    with mapper(session, choice) as mapped:
        points = sweep_limits(loaded, limits, folds=folds, sentences=sentences, places=places, mapper=mapped)
    return sorted(frontier(points), key=lambda point: (point.max_latency_ms, point.max_energy_j))


def _wished(points: Sequence[Point], max_energy: float | None, max_latency: float | None) -> list[Point]:
    from orchestrator.errors import BudgetInfeasible

    within = [
        point
        for point in points
        if (max_energy is None or point.max_energy_j <= max_energy)
        and (max_latency is None or point.max_latency_ms <= max_latency)
    ]
    if not within:
        least_j, least_ms = min(point.max_energy_j for point in points), min(point.max_latency_ms for point in points)
        raise BudgetInfeasible(min_energy_j=least_j, min_latency_ms=least_ms)
    return within


def _picked(points: Sequence[Point], min_quality: float | None) -> Point:
    from orchestrator.errors import ExitCode
    from orchestrator.study.errors import StudyError

    best = max(point.quality for point in points)
    goal = best - _LEVEL if min_quality is None else min_quality
    good = [point for point in points if point.quality >= goal]
    if not good:
        why = f"the best mean quality within these limits is {best:.3f}"
        cure = "ask for less, allow more, or add experts"
        raise StudyError(why, cure, what="quality out of reach", exit_code=ExitCode.BUDGET_INFEASIBLE)
    return min(good, key=lambda point: (point.total_j, point.max_latency_ms))


def _print(points: Sequence[Point], session: Session, output: str) -> None:
    from orchestrator.cli.output import console, duration_or_dash, energy_or_dash, percent, print_json, table

    if output == "json":
        print_json([*points])
        return
    columns = [">max energy", ">max latency", ">quality", ">95 % interval", ">J per request", ">p95", ">answered"]
    idle = any(point.idle_j for point in points)
    columns += [">idle per request"] if idle else []
    rows = table("Quality within limits per request, on prompts not seen", columns)
    for point in points:
        span = f"{point.quality_low * 100:.1f} – {point.quality_high * 100:.1f} %"
        limits = (energy_or_dash(point.max_energy_j), duration_or_dash(point.max_latency_ms))
        costs = (energy_or_dash(point.j_per_query), duration_or_dash(point.ms_p95))
        cells = (*limits, percent(point.quality), span, *costs, percent(point.answered_fraction))
        rows.add_row(*cells, *([energy_or_dash(point.idle_j)] if idle else []))
    console(color=session.color).print(rows)
