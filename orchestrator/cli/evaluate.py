"""`edgewise eval`: what the gate would make of one's own traffic, beside the obvious alternatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.context import Session, output_option

if TYPE_CHECKING:
    from optimizer.gate.sentences import SentenceEncoder
    from optimizer.mapping import Mapper
    from optimizer.study.table import Table
    from orchestrator.workers.choice import Choice

FILE = click.Path(path_type=Path)
TABLE = click.option(
    "--table", type=FILE, required=True, help="Rows of prompt_id, prompt, task, model, quality: csv, jsonl or parquet."
)
ENCODER = click.option("--encoder", type=FILE, help="A sentence encoder (.onnx) to look at beside the n-grams.")
TOKENIZER = click.option("--tokenizer", type=FILE, help="Its tokenizer.json, if it takes tokens.")
ARMS = click.option("--arms", type=FILE, required=True, help="What each model costs: csv or json.")
WORKERS = click.option(
    "--workers",
    metavar="WHERE",
    help="local, local:N processes, ray or ray@HOST:PORT; all give the same bits.  [default: here, on all threads]",
)


@click.command("eval", short_help="Judge policies on a table of your own traffic.")
@TABLE
@ARMS
@ENCODER
@TOKENIZER
@click.option("--plot", type=FILE, help="Also draw quality against joules into this file.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the folds.")
@WORKERS
@output_option
@click.pass_obj
def evaluate(session: Session, /, *, table: Path, arms: Path, plot: Path | None, output: str, **asked: Any) -> None:
    """Judge the gate and its alternatives on a table of measured qualities.

    Every prompt is judged by what had not seen it; prices and thresholds are chosen on the training folds. Joules are
    modelled from the arms file.
    """
    choice = chosen_workers(asked)
    from optimizer.study.study import StudySettings, run_study
    from optimizer.study.summary import summarise

    sentences = load_encoder(asked["encoder"], asked["tokenizer"])
    loaded = load_table(session, table, arms)
    settings = StudySettings(folds=folds_for(loaded), seed=asked["seed"], sentences=sentences)
    with mapper(session, choice) as mapped:
        study = run_study(loaded, settings, mapper=mapped)
    summary = summarise(study)
    if plot is not None:
        from orchestrator.study.plot import save_plot

        save_plot(summary, plot)
        session.note(f"plot: {plot}")
    _print(summary, session, output)


def chosen_workers(asked: dict[str, Any]) -> Choice | None:
    """Where --workers wants the work done, None without it; called before anything that computes is imported.

    Raises:
        UsageError: A sentence encoder, which cannot be sent, is to work elsewhere.
        PlacementError: As in `parse_workers`.
    """
    from orchestrator.workers.choice import parse_workers
    from orchestrator.workers.local import compute_on_one_thread

    if asked["workers"] is None:
        return None
    choice = parse_workers(asked["workers"])
    if choice.elsewhere and asked.get("encoder") is not None:
        raise click.UsageError("an --encoder cannot be sent to other processes; use --workers local")
    compute_on_one_thread()
    return choice


@contextmanager
def mapper(session: Session, choice: Choice | None) -> Iterator[Mapper]:
    """What does the pieces of a study, telling how far it is.

    Raises:
        PlacementError: As in `opened`.
    """
    from orchestrator.workers.choice import Choice, opened, told

    with opened(choice or Choice()) as workers:

        def mapped(function: Callable[[Any], Any], items: Sequence[Any], what: str) -> list[Any]:
            return workers.map(function, items, progress=told(session.note, what))

        yield mapped


def load_encoder(model: Path | None, tokenizer: Path | None) -> SentenceEncoder | None:
    """The sentence encoder of the options, if any.

    Raises:
        UsageError: A tokenizer without an encoder.
        StudyError: As in `load_sentences`.
    """
    if model is None:
        if tokenizer is not None:
            raise click.UsageError("--tokenizer belongs to --encoder; give both")
        return None
    from orchestrator.study.sentences import load_sentences

    return load_sentences(model, tokenizer)


def load_table(session: Session, table: Path, arms: Path) -> Table:
    """The table of the two files, with notes on stderr about what was left out."""
    return load_placed(session, table, arms)[0]


def load_placed(session: Session, table: Path, arms: Path) -> tuple[Table, tuple[str, ...]]:
    """The same with the node of each model."""
    from orchestrator.study.arms import read_arms
    from orchestrator.study.tables import chosen_arms, join_arms, read_traffic

    traffic, listed = read_traffic(table, note=session.note), read_arms(arms)
    loaded, arm_of = join_arms(traffic, listed, note=session.note), chosen_arms(traffic, listed)
    shape = f"{len(loaded.texts)} prompts, {len(loaded.models)} models, {len(set(loaded.tasks))} tasks"
    session.note(f"{shape}; {loaded.known_qm.mean():.0%} of the cells have an answer")
    return loaded, tuple(arm_of[model].node for model in loaded.models)


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
