"""`edgewise why`: what was considered for one request, what was chosen, and what it really cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from orchestrator.cli.context import Session, gateway_option, output_option

if TYPE_CHECKING:
    from rich.table import Table

    from orchestrator.client.types import Candidate, Explanation
    from orchestrator.types import Energy

SHOWN = 12
BINDING = {
    "": "nothing: the best route within reach was taken",
    "none": "nothing: the best route within reach was taken",
    "energy": "energy: a better route would break the joules allowed",
    "latency": "latency: a better route would break the milliseconds allowed",
    "availability": "availability: a better route has no healthy node",
}


@click.command()
@gateway_option
@click.argument("request_id")
@click.option("--all", "everything", is_flag=True, help=f"Show all candidates, not only {SHOWN}.")
@output_option
@click.pass_obj
def why(session: Session, request_id: str, *, everything: bool, output: str) -> None:
    """Explain why the request REQUEST_ID was answered as it was."""
    from orchestrator.cli.output import console, print_json

    with session.client() as client:
        explanation = client.explain(request_id)
    if output == "json":
        print_json(explanation)
        return
    screen = console(color=session.color)
    screen.print(_headline(explanation))
    screen.print(_cost_table(explanation))
    screen.print(_candidates_table(explanation, len(explanation.candidates) if everything else SHOWN))
    if explanation.routing.attempts:
        screen.print(_attempts_table(explanation))
    screen.print(_plan_text(explanation))


def _headline(explanation: Explanation) -> str:
    from orchestrator.cli.output import safe
    from orchestrator.units import format_duration_ms

    age = format_duration_ms(explanation.age_s * 1e3, 2)
    binding = explanation.binding_constraint
    return "\n".join(
        (
            f"[bold]request {safe(explanation.request_id)}[/]: {safe(explanation.outcome)}, {age} ago",
            f"  asked      task {safe(explanation.task)}, {_limits(explanation)}, profile {safe(explanation.profile)}",
            f"  chosen     {safe(_short(explanation.chosen, explanation)) or 'nothing'}",
            f"  runner-up  {safe(_short(explanation.runner_up, explanation)) or 'none'}",
            f"  binding    {BINDING.get(binding, safe(binding))}",
            *_combining(explanation),
            f"  price      {_price(explanation)}",
            f"  long run   {_pacing(explanation)}",
            *([f"  overlay    {safe(explanation.routing.overlay)}"] if explanation.routing.overlay else []),
            f"  charged    {_charged(explanation)}\n",
        )
    )


def _combining(explanation: Explanation) -> list[str]:
    """Whether one expert alone was the best choice; nothing where nothing could be combined."""
    from orchestrator.cli.output import percent, safe
    from orchestrator.routing.alone import verdict

    found = verdict(explanation.chosen, explanation.candidates)
    if found is None:
        return []
    if not found.rival:
        text = (
            "no combination fits: one expert alone" if found.alone else "as asked: no expert alone was allowed or fits"
        )
        return [f"  combining  {text}"]
    rival = safe(_short(found.rival, explanation))
    if found.worth_more < 0.0:
        more = percent(-found.worth_more)
        return [f"  combining  {rival} would be worth {more} more; the request, a profile or a probe settled it"]
    said = "one expert alone is optimal" if found.alone else "several together are worth their joules"
    return [f"  combining  {said}: {rival} would be worth {percent(found.worth_more)} less, after the price of joules"]


def _charged(explanation: Explanation) -> str:
    from orchestrator.cli.output import safe
    from orchestrator.units import format_energy_j

    account = explanation.account
    payer = f"tenant {account.tenant}, key {account.key_id}: " if account.tenant else ""
    if not account.budgets:
        return safe(f"{payer}no budget over time")
    reserved = format_energy_j(account.reserved_j) if math.isfinite(account.reserved_j) else "tokens only"
    return safe(f"{payer}{format_energy_j(account.charged_j)} of {reserved} reserved, to {', '.join(account.budgets)}")


def _short(route: str, explanation: Explanation) -> str:
    from orchestrator.cli.names import short_route, sole_variant

    return short_route(route, variants=not sole_variant(entry.route for entry in explanation.candidates))


def _limits(explanation: Explanation) -> str:
    from orchestrator.units import format_duration_ms, format_energy_j

    energy_j, latency_ms = explanation.max_energy_j, explanation.max_latency_ms
    joules = "no energy limit" if energy_j is None else f"at most {format_energy_j(energy_j)}"
    return f"{joules}, {'no time limit' if latency_ms is None else f'at most {format_duration_ms(latency_ms)}'}"


def _price(explanation: Explanation) -> str:
    from orchestrator.units import format_energy_j

    if explanation.price_per_j <= 0 or not math.isfinite(explanation.price_per_j):
        return "none: joules within the budget are free"
    return f"one more right answer in a hundred is worth {format_energy_j(0.01 / explanation.price_per_j)}"


def _pacing(explanation: Explanation) -> str:
    from orchestrator.cli.pacing import pacing_sentence

    return "no budget" if explanation.pacing is None else pacing_sentence(explanation.pacing)


def _cost_table(explanation: Explanation) -> Table:
    from orchestrator.cli.output import duration_or_dash, energy_or_dash, energy_text, table
    from orchestrator.units import format_duration_ms

    routing, timing = explanation.routing, explanation.timing
    rows = table("Predicted against actual", ("", ">predicted", ">promised", ">actual", ""))
    rows.add_row(
        "energy",
        energy_or_dash(routing.predicted_energy_j),
        f"≤ {energy_or_dash(routing.bound_energy_j)}",
        energy_text(explanation.energy),
        _source(explanation.energy),
    )
    parts = {"route": timing.route_ms, "wait": timing.wait_ms, "infer": timing.infer_ms, "fuse": timing.fuse_ms}
    rows.add_row(
        "time",
        duration_or_dash(routing.predicted_ms),
        f"≤ {duration_or_dash(routing.bound_ms)}",
        format_duration_ms(timing.total_ms),
        ", ".join(f"{name} {format_duration_ms(part_ms, 2)}" for name, part_ms in parts.items()),
    )
    rows.caption = None if routing.budget_met else "the budget was not met"
    return rows


def _source(energy: Energy) -> str:
    """Method, interval, how it was shared, and what idle power took beside it."""
    from orchestrator.cli.output import safe
    from orchestrator.units import format_energy_j

    parts = [safe(energy.method)]
    if energy.uncertainty_j:
        parts.append(f"± {format_energy_j(2.0 * energy.uncertainty_j)}")
    if energy.share:
        parts.append(f"share: {safe(energy.share)}")
    if energy.idle_j is not None:
        parts.append(f"idle {format_energy_j(energy.idle_j)} beside it")
    if energy.preliminary:
        parts.append("the final figure has not come yet")
    return ", ".join(parts)


def _candidates_table(explanation: Explanation, shown: int) -> Table:
    from orchestrator.cli.output import duration_or_dash, energy_or_dash, percent, safe, table

    columns = ("", "candidate", ">quality", ">energy", ">promised", ">time", ">promised", "remarks")
    ordered = _ordered(explanation)
    rows = table("\nCandidates (predicted figures)", columns)
    for entry in ordered[:shown]:
        rows.add_row(
            _mark(entry, explanation),
            safe(_short(entry.route, explanation)),
            percent(entry.quality_fraction),
            energy_or_dash(entry.predicted_energy_j),
            f"≤ {energy_or_dash(entry.bound_energy_j)}",
            duration_or_dash(entry.predicted_ms),
            f"≤ {duration_or_dash(entry.bound_ms)}",
            ", ".join(filter(None, (safe(entry.excluded_by), _loading(entry), _kept(entry)))),
        )
    if len(ordered) > shown:
        rows.caption = f"and {len(ordered) - shown} more: --all"
    return rows


def _loading(entry: Candidate) -> str:
    """Time that is spent on bringing experts into memory, which is part of the candidate's time."""
    from orchestrator.units import format_duration_ms

    return f"loads for {format_duration_ms(entry.load_ms)}" if entry.load_ms > 0.0 else ""


def _kept(entry: Candidate) -> str:
    """Tokens that need not be read again, which are no part of the candidate's predicted figures."""
    return f"{entry.cached_tokens:.0f} tokens kept" if entry.cached_tokens >= 0.5 else ""


def _ordered(explanation: Explanation) -> Sequence[Candidate]:
    """The chosen one, the runner-up, then feasible ones by score, then the excluded."""
    return sorted(
        explanation.candidates,
        key=lambda entry: (
            entry.route != explanation.chosen,
            entry.route != explanation.runner_up,
            not entry.feasible,
            -entry.score,
        ),
    )


def _mark(entry: Candidate, explanation: Explanation) -> str:
    if entry.route == explanation.chosen:
        return "▶"
    return "2" if entry.route == explanation.runner_up else ""


def _attempts_table(explanation: Explanation) -> Table:
    from orchestrator.cli.output import duration_or_dash, energy_or_dash, energy_text, safe, table

    columns = (
        ">stage",
        "attempt",
        "outcome",
        ">energy\npredicted",
        ">energy\nactual",
        ">time\npredicted",
        ">time\nactual",
    )
    rows = table("\nAttempts", columns)
    for attempt in explanation.routing.attempts:
        rows.add_row(
            str(attempt.stage),
            safe(_short(attempt.arm, explanation)),
            safe(f"{attempt.outcome} ({attempt.reason})" if attempt.reason else attempt.outcome),
            energy_or_dash(attempt.predicted_energy_j),
            energy_text(attempt.energy),
            duration_or_dash(attempt.predicted_ms),
            duration_or_dash(attempt.ms),
        )
    return rows


def _plan_text(explanation: Explanation) -> str:
    from orchestrator.cli.output import certificate_text, safe

    routing = explanation.routing
    plan = f"plan {safe(routing.plan_id) or 'none'}: {certificate_text(routing.certificate)}"
    gate = f"; gate file {safe(routing.gate_sha256[:12])}" if routing.gate_sha256 else ""
    return f"\nfusion {routing.fusion.value}; {plan}{gate}"
