"""`edgewise infer`: one picture or array, one answer, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.context import Session, gateway_option, output_option
from orchestrator.cli.params import DURATION, ENERGY, INFEASIBLE, PROFILES, make_budget

if TYPE_CHECKING:
    from orchestrator.client import Answer
    from orchestrator.client.types import TensorSpec

FUSIONS = ("auto", "none", "mixture", "vote")


@click.command(short_help="Answer one query: a picture or a .npy array.")
@gateway_option
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--index", type=click.IntRange(min=0), default=0, help="Which sample of a .npy file.  [default: 0]")
@click.option("--task", default="digits", show_default=True, help="What kind of query this is.")
@click.option("--expert", help="One expert by name; without it the gateway chooses.")
@click.option("--max-energy", type=ENERGY, help="Most joules for this request, e.g. 5mJ or 3uJ.")
@click.option("--max-latency", type=DURATION, help="Most time for this request, e.g. 20ms.")
@click.option("--on-infeasible", type=INFEASIBLE, help="What to do when nothing fits.  [default: the gateway's]")
@click.option("--profile", type=click.Choice(PROFILES), help="How many joules a better answer is worth.")
@click.option("--fusion", type=click.Choice(FUSIONS), default="auto", help="How answers are combined.  [default: auto]")
@click.option("--timeout", type=DURATION, default=10_000.0, help="Deadline of the call.  [default: 10s]")
@click.option("--request-id", help="A name of your own for this request; `edgewise why` takes it.")
@click.option("--user", help="Whose own expert may learn from this and answer.")
@click.option("--node", "nodes", multiple=True, metavar="NAME", help="Where it may run; may be repeated.")
@click.option(
    "--max-mass",
    type=click.FloatRange(0.0, 1.0, min_open=True),
    help="Only pruned experts, at operating points of at most this mass.",
)
@output_option
@click.pass_obj
def infer(
    session: Session,
    *,
    file: Path,
    index: int,
    task: str,
    expert: str | None,
    max_energy: float | None,
    max_latency: float | None,
    on_infeasible: str | None,
    profile: str | None,
    fusion: str,
    timeout: float,
    request_id: str | None,
    user: str | None,
    nodes: tuple[str, ...],
    max_mass: float | None,
    output: str,
) -> None:
    """Answer one query: FILE is a picture or a .npy array.

    \b
      edgewise infer digit.png --max-energy 5mJ --max-latency 20ms
      edgewise infer digits.npy --index 7 --profile eco -o json
    """
    from orchestrator.cli.output import print_json
    from orchestrator.client import FusionChoice
    from orchestrator.image import load_input

    budget = make_budget(max_energy, max_latency, on_infeasible=on_infeasible, profile=profile)
    with session.client(timeout) as client:
        spec = _input_of(client.tasks(), task)
        answer = client.infer(
            {spec.name: load_input(file, spec, index=index)},
            task=task,
            budget=budget,
            expert=expert,
            fusion=FusionChoice(fusion),
            request_id=request_id,
            user=user,
            nodes=nodes,
            max_mass=max_mass,
        )
    if output == "json":
        print_json(answer)
    else:
        _print(answer, session)


def _input_of(tasks: Mapping[str, TensorSpec], task: str) -> TensorSpec:
    from orchestrator.errors import RequestError

    if task in tasks:
        return tasks[task]
    known = ", ".join(sorted(tasks)) or "none yet"
    raise RequestError("TASK_NOT_FOUND", f"No node serves the task {task!r}; served are: {known}.")


def _print(answer: Answer, session: Session) -> None:
    from orchestrator.cli.output import arms_line, console, energy_text, percent, safe
    from orchestrator.units import format_duration_ms

    if session.quiet:
        click.echo(answer.label)
        return
    arms = arms_line(answer.routing.attempts)
    met = "met" if answer.routing.budget_met else "[bold red]not met[/]"
    screen = console(color=session.color)
    screen.print(f"[bold]{safe(answer.label)}[/]  (confidence {percent(answer.confidence)})")
    screen.print(f"  energy   {energy_text(answer.energy)}, by {safe(answer.energy.method)}")
    screen.print(f"  time     {format_duration_ms(answer.timing.total_ms)}")
    screen.print(f"  arms     {arms}")
    screen.print(f"  budget   {met}")
    if answer.routing.overlay:
        screen.print(f"  overlay  {safe(answer.routing.overlay)}")
    if answer.needs_feedback:
        screen.print(f"  label?   edgewise feedback {safe(answer.request_id)} --label LABEL would help")
    screen.print(f"  request  {safe(answer.request_id)}  (edgewise why {safe(answer.request_id)})")
