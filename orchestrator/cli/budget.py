"""`edgewise budget`: what requests may spend that bring no budget of their own, and what that buys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from orchestrator.cli.context import Session, gateway_option, output_option
from orchestrator.cli.params import DURATION, ENERGY, INFEASIBLE, POWER, PROFILES, make_budget, make_long_run
from orchestrator.cli.tuning import sweep, tune

if TYPE_CHECKING:
    from rich.table import Table

    from orchestrator.client.types import TaskBudget


@click.group(short_help="Show and set the budgets of requests that bring none.")
def budget() -> None:
    """Show and set the joules and milliseconds of requests that bring no budget of their own."""


@budget.command()
@gateway_option
@output_option
@click.pass_obj
def show(session: Session, output: str) -> None:
    """Show the budgets in force and where they come from."""
    with session.client() as client:
        _print(client.budgets(), session, output)


@budget.command("set")
@gateway_option
@click.option("--task", default="", help="One task; without it, the default of all tasks.")
@click.option("--max-energy", type=ENERGY, help="Joules per request, e.g. 5mJ.")
@click.option("--max-latency", type=DURATION, help="Time per request, e.g. 20ms.")
@click.option("--on-infeasible", type=INFEASIBLE, help="What happens when nothing fits.")
@click.option("--profile", type=click.Choice(PROFILES), help="How many joules a better answer is worth.")
@click.option("--average-energy", type=ENERGY, help="Joules per request, averaged over many; 0 switches it off.")
@click.option("--average-power", type=POWER, help="Watts, averaged over time; 0 switches it off.")
@click.option("--reset", is_flag=True, help="Forget what was set; back to the configuration.")
@output_option
@click.pass_obj
def set_(
    session: Session,
    *,
    task: str,
    max_energy: float | None,
    max_latency: float | None,
    on_infeasible: str | None,
    profile: str | None,
    average_energy: float | None,
    average_power: float | None,
    reset: bool,
    output: str,
) -> None:
    """Set the budget of a task; it survives restarts, and what is not named stays as it is.

    An average budget is kept over many requests by pacing: it decides what a joule must buy. It is apart for each
    task; set without a task it holds for each task that has none of its own.
    """
    wanted = make_budget(max_energy, max_latency, on_infeasible=on_infeasible, profile=profile)
    long_run = make_long_run(average_energy, average_power)
    if (wanted is None and long_run is None) != reset:
        raise click.UsageError("name at least one limit, or --reset alone")
    with session.client() as client:
        _print([client.set_budget(wanted, task=task, long_run=long_run)], session, output)


budget.add_command(sweep)
budget.add_command(tune)


def _print(budgets: Sequence[TaskBudget], session: Session, output: str) -> None:
    from orchestrator.cli.output import console, print_json, safe, table
    from orchestrator.units import format_duration_ms, format_energy_j

    if output == "json":
        print_json([*budgets])
        return
    rows = table(None, ("task", ">max energy", ">max latency", "if nothing fits", "profile", "from"))
    for entry in budgets:
        own = entry.budget
        absent = "as default" if entry.task else "no limit"
        rows.add_row(
            safe(entry.task) or "(default)",
            absent if own.max_energy_j is None else format_energy_j(own.max_energy_j),
            absent if own.max_latency_ms is None else format_duration_ms(own.max_latency_ms),
            own.on_infeasible.value.replace("_", "-") if own.on_infeasible else "as default",
            own.profile or "as default",
            safe(entry.origin),
        )
    console(color=session.color).print(rows)
    if any(entry.long_run.limits for entry in budgets):
        console(color=session.color).print(_long_run_table(budgets))
    _print_shares(budgets, session)


def _print_shares(budgets: Sequence[TaskBudget], session: Session) -> None:
    """What one more joule would buy each task that shares a budget."""
    from orchestrator.cli.output import console, safe
    from orchestrator.cli.pacing import rounding_sentence, share_sentence

    shares = {entry.task: entry.pacing.share for entry in budgets if entry.pacing and entry.pacing.share}
    for task, share in shares.items():
        console(color=session.color).print(f"{safe(task)}: {share_sentence(share)}")
    for share in list(shares.values())[:1]:
        console(color=session.color).print(rounding_sentence(share))


def _long_run_table(budgets: Sequence[TaskBudget]) -> Table:
    from orchestrator.cli.output import safe, table
    from orchestrator.cli.pacing import budget_text, pacing_cells

    rows = table("\nOver many requests", ("task", ">average", ">price", ">burn", ">left now", "status"))
    for entry in budgets:
        if entry.long_run.limits:
            rows.add_row(safe(entry.task) or "(each task)", budget_text(entry.long_run), *pacing_cells(entry.pacing))
    return rows


@budget.command("limit")
@gateway_option
@click.argument("scope")
@click.option("--per-request", type=ENERGY, help="Joules of one request.")
@click.option("--per-day", type=ENERGY, help="Joules of a UTC day.")
@click.option("--power", type=POWER, help="Watts, averaged over every minute.")
@click.option("--tokens-per-day", type=click.IntRange(min=0), help="Tokens of a UTC day.")
@click.option("--remove", is_flag=True, help="Take all limits of the scope away.")
@click.pass_obj
def limit(
    session: Session,
    *,
    scope: str,
    per_request: float | None,
    per_day: float | None,
    power: float | None,
    tokens_per_day: int | None,
    remove: bool,
) -> None:
    """Limit what SCOPE may spend over time: fleet, tenant:NAME, key:ID or task:NAME.

    Limits are hard: a request that does not fit into what is left is refused before it runs. What is not named is
    not limited.
    """
    from orchestrator.client.types import Quota

    quota = Quota(per_request, per_day, power, tokens_per_day)
    if (quota == Quota()) != remove:
        raise click.UsageError("name at least one limit, or --remove alone")
    with session.client() as client:
        client.set_quota(scope, None if remove else quota)
    session.note(f"{scope}: {'no limits' if remove else 'limits set'}")


@budget.command("left")
@gateway_option
@output_option
@click.pass_obj
def left(session: Session, output: str) -> None:
    """Show what is left of every limit, how fast it goes, and when it is new."""
    from orchestrator.cli.limits import print_limits

    with session.client() as client:
        print_limits(client.quotas(), session, output)
