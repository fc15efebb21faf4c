"""`edgewise ask` and `edgewise chat`: an answer as it is written, then what it cost."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.context import Function, Session, gateway_option, output_option
from orchestrator.cli.params import DURATION, ENERGY, INFEASIBLE, PROFILES, make_budget

if TYPE_CHECKING:
    from orchestrator.client import Budget, Client, Generated, Message

FUSIONS = ("auto", "none", "vote", "judge", "token", "bytes")
AUTO = "auto"
DEFAULT_TASK = "chat"


@dataclass(frozen=True)
class Asking:
    """How questions are put.

    Args:
        expert: One by name; None lets the gateway choose.
        task: None takes the one that the gateway serves.
        user: Whose own expert may answer and learn; None for nobody's.
    """

    expert: str | None
    task: str | None
    budget: Budget | None
    fusion: str
    max_tokens: int
    temperature: float | None
    continue_on_loss: bool = False
    user: str | None = None
    samples: int = 1


def _asking_options(function: Function) -> Function:
    options: Sequence[Callable[[Function], Function]] = (
        click.option("--model", default=AUTO, show_default=True, help="An expert by name; auto: the gateway chooses."),
        click.option("--task", help="What kind of text this is.  [default: the one that is served]"),
        click.option("--max-energy", type=ENERGY, help="Most joules for an answer, e.g. 20J or 5mJ."),
        click.option("--max-latency", type=DURATION, help="Most time for an answer, e.g. 1.5s."),
        click.option("--on-infeasible", type=INFEASIBLE, help="What to do when nothing fits."),
        click.option("--profile", type=click.Choice(PROFILES), help="How many joules a better answer is worth."),
        click.option(
            "--fusion",
            type=click.Choice(FUSIONS),
            help="How answers are combined.  [default: auto; vote with --samples]",
        ),
        click.option(
            "--samples", type=click.IntRange(1, 8), default=1, help="Ask so often; what most samples say is the answer."
        ),
        click.option(
            "--continue-on-loss", is_flag=True, help="With token or bytes: who is left writes on where one is lost."
        ),
        click.option("--max-tokens", type=click.IntRange(1, 131_072), default=256, show_default=True, help="Length."),
        click.option("--temperature", type=click.FloatRange(0.0, 2.0), help="How freely words are drawn."),
        click.option("--user", help="Whose own expert may learn from this and answer."),
        click.option("--timeout", type=DURATION, default=60_000.0, help="Deadline of the call.  [default: 60s]"),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _asking(options: dict[str, Any]) -> Asking:
    budget = make_budget(
        options["max_energy"],
        options["max_latency"],
        on_infeasible=options["on_infeasible"],
        profile=options["profile"],
    )
    model = options["model"]
    expert = None if model == AUTO else model
    samples = options["samples"]
    fusion = options["fusion"] or ("vote" if samples > 1 else AUTO)
    shape = fusion, options["max_tokens"], options["temperature"], options["continue_on_loss"]
    return Asking(expert, options["task"], budget, *shape, options["user"], samples)


@click.command(short_help="Ask a question in words; the answer comes as it is written.")
@gateway_option
@click.argument("question")
@_asking_options
@click.option("--request-id", help="A name of your own for this request; `edgewise why` takes it.")
@output_option
@click.pass_obj
def ask(
    session: Session, /, *, question: str, timeout: float, request_id: str | None, output: str, **options: Any
) -> None:
    """Ask QUESTION; `-` reads it from stdin.

    \b
      edgewise ask "What is 12 plus 19?" --max-energy 20J --max-latency 1.5s
      edgewise ask - --fusion vote < question.txt
    """
    from orchestrator.cli.output import print_json
    from orchestrator.client import Message

    text = sys.stdin.read() if question == "-" else question
    with session.client(timeout) as client:
        asking = _with_task(client, _asking(options))
        show = None if output == "json" else _say
        end = _answer(client, [Message("user", text)], asking, request_id=request_id, show=show)
    if output == "json":
        print_json(end)
        return
    click.echo()
    if not session.quiet:
        click.echo(summary(end), err=True)


@click.command(short_help="Talk with the experts, turn by turn.")
@gateway_option
@_asking_options
@click.pass_obj
def chat(session: Session, /, *, timeout: float, **options: Any) -> None:
    """Talk with the experts; every answer says what it cost. An empty line or Ctrl-D ends it."""
    from orchestrator.cli.failure import report
    from orchestrator.client import Message
    from orchestrator.errors import EdgewiseError

    said: list[Message] = []
    with session.client(timeout) as client:
        asking = _with_task(client, _asking(options))
        while text := _next_line():
            said.append(Message("user", text))
            try:
                end = _answer(client, said, asking, request_id=None, show=_say)
            except EdgewiseError as error:
                # One question that cannot be answered does not end the talk.
                said.pop()
                report(error)
                continue
            said.append(Message("assistant", end.text))
            click.echo()
            if not session.quiet:
                click.echo(summary(end), err=True)


def _next_line() -> str:
    try:
        return str(click.prompt("you", prompt_suffix="> ", default="", show_default=False, err=True)).strip()
    except click.Abort:
        return ""


def _with_task(client: Client, asking: Asking) -> Asking:
    """The task that was asked for, else `chat`, else the first that takes texts."""
    from orchestrator.errors import RequestError

    if asking.task is not None:
        return asking
    tasks = client.text_tasks()
    if not tasks:
        raise RequestError("TASK_NOT_FOUND", "No node serves texts yet; start one with `edgewise node run`.")
    return replace(asking, task=DEFAULT_TASK if DEFAULT_TASK in tasks else tasks[0])


def _answer(
    client: Client,
    messages: Sequence[Message],
    asking: Asking,
    *,
    request_id: str | None,
    show: Callable[[str], None] | None,
) -> Generated:
    from orchestrator.client import FusionChoice, Generated, GenerationParameters
    from orchestrator.errors import Unavailable

    pieces = client.generate(
        messages,
        task=asking.task or DEFAULT_TASK,
        parameters=GenerationParameters(asking.max_tokens, asking.temperature),
        budget=asking.budget,
        expert=asking.expert,
        fusion=FusionChoice(asking.fusion),
        continue_on_loss=asking.continue_on_loss,
        samples=asking.samples,
        request_id=request_id,
        user=asking.user,
    )
    for piece in pieces:
        if isinstance(piece, Generated):
            return piece
        if show is not None:
            show(piece.text)
    raise Unavailable("ATTEMPTS_FAILED", "The answer ended without an end.")


def _say(text: str) -> None:
    """A piece of a peer's text on a terminal: line breaks and tabs, no other control characters."""
    plain = "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)
    click.echo(plain, nl=False)
    if os.isatty(1):
        sys.stdout.flush()


def summary(end: Generated) -> str:
    """One line: joules, milliseconds, arms, and how to learn more."""
    from orchestrator.cli.output import arms_line, energy_text
    from orchestrator.units import format_duration_ms

    arms = arms_line(end.routing.attempts)
    fused = "" if end.routing.fusion.value == "none" else f", {end.routing.fusion.value}"
    short = ", stopped by the budget" if end.finish_reason == "budget" else ""
    met = "" if end.routing.budget_met else ", budget not met"
    time = format_duration_ms(end.timing.total_ms)
    return f"{energy_text(end.energy)}, {time}, {arms}{fused}{short}{met}  (edgewise why {end.request_id})"
