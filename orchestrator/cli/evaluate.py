"""`edgewise eval`: what the gate would make of one's own traffic, beside the obvious alternatives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.context import Session, output_option

if TYPE_CHECKING:
    from optimizer.study.table import Table

FILE = click.Path(path_type=Path)
TABLE = click.option(
    "--table", type=FILE, required=True, help="Rows of prompt_id, prompt, task, model, quality: csv, jsonl or parquet."
)
ARMS = click.option("--arms", type=FILE, required=True, help="What each model costs: csv or json.")


@click.command("eval", short_help="Judge policies on a table of your own traffic.")
@TABLE
@ARMS
@click.option("--plot", type=FILE, help="Also draw quality against joules into this file.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the folds.")
@output_option
@click.pass_obj
def evaluate(session: Session, *, table: Path, arms: Path, plot: Path | None, seed: int, output: str) -> None:
    """Judge the gate and its alternatives on a table of measured qualities.

    Every prompt is judged by what had not seen it; prices and thresholds are chosen on the training folds. Joules are
    modelled from the arms file.
    """
    from optimizer.study.study import StudySettings, run_study
    from optimizer.study.summary import summarise

    loaded = load_table(session, table, arms)
    study = run_study(loaded, StudySettings(folds=folds_for(loaded), seed=seed), progress=session.note)
    summary = summarise(study)
    if plot is not None:
        from orchestrator.study.plot import save_plot

        save_plot(summary, plot)
        session.note(f"plot: {plot}")
    _print(summary, session, output)


def load_table(session: Session, table: Path, arms: Path) -> Table:
    """The table of the two files, with notes on stderr about what was left out."""
    from orchestrator.study.arms import read_arms
    from orchestrator.study.tables import join_arms, read_traffic

    loaded = join_arms(read_traffic(table, note=session.note), read_arms(arms), note=session.note)
    shape = f"{len(loaded.texts)} prompts, {len(loaded.models)} models, {len(set(loaded.tasks))} tasks"
    session.note(f"{shape}; {loaded.known_qm.mean():.0%} of the cells have an answer")
    return loaded


def folds_for(table: Table) -> int:
    """Five folds, fewer where there are hardly any prompts.

    Raises:
        StudyError: Fewer than ten prompts.
    """
    from orchestrator.study.errors import StudyError

    if len(table.texts) < 10:
        raise StudyError(f"{len(table.texts)} prompts are too few to judge anything", "give at least 10")
    return 5 if len(table.texts) >= 25 else 2


def _print(summary: dict[str, Any], session: Session, output: str) -> None:
    from orchestrator.cli.output import console, print_json

    if output == "json":
        print_json(summary)
        return
    screen = console(color=session.color)
    for table in (_at_budgets(summary), _at_quality(summary)):
        screen.print(table)
    screen.print("In brackets: seemed sure on the training folds, and the interval says it was not.")
    if not summary["gate_earns"]:
        screen.print("The gate earns nothing here beside knowing the task.")


def _at_budgets(summary: dict[str, Any]) -> Any:
    from orchestrator.cli.output import duration_or_dash, energy_or_dash, table

    columns = ("policy", ">budget", ">quality %", ">95 % interval", ">spent", ">p95")
    rows = table("Quality within a budget of joules per request, on prompts not seen", columns)
    for row in summary["rows"]:
        span = f"{row.quality_low * 100:.1f} – {row.quality_high * 100:.1f}"
        costs = (energy_or_dash(row.j_per_query), duration_or_dash(row.ms_p95))
        rows.add_row(row.policy, energy_or_dash(row.budget_j), f"{row.quality * 100:.2f}", span, *costs)
    return rows


def _at_quality(summary: dict[str, Any]) -> Any:
    from orchestrator.cli.output import table

    best = summary["best_single"]["model"]
    rows = table(
        f"Joules beside {best}'s",
        ("policy", ">as good", ">surely as good", ">its 95 % interval, points", ">gap closed"),
    )
    for policy, sure in summary["surely_at_best_single_quality"].items():
        level, closed = summary["joules_at_best_single_quality"].get(policy), summary["oracle_gap_closed"].get(policy)
        span = f"{sure.low * 100:+.2f} to {sure.high * 100:+.2f}"
        as_good = "never" if level is None else f"{level:.3f}"
        surely = f"{sure.ratio:.3f}" if sure.holds else f"({sure.ratio:.3f})"
        rows.add_row(policy, as_good, surely, span, "" if closed is None else f"{closed:.1%}")
    return rows
