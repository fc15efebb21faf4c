"""`edgewise plan`: which arms should be active for one's own traffic, proven optimal, and what a joule more buys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.context import Session, output_option
from orchestrator.cli.evaluate import ARMS, ENCODER, TABLE, TOKENIZER, folds_for, load_encoder
from orchestrator.cli.idle import Idling, NodesReport, idle_options, nodes_report, nodes_text, read_idling
from orchestrator.cli.params import DURATION, ENERGY

if TYPE_CHECKING:
    from optimizer.gate.sentences import SentenceEncoder
    from optimizer.selection.idling import NodePlan
    from optimizer.selection.problem import Problem
    from optimizer.selection.solution import Solution, Verdict
    from orchestrator.study.planning import ActiveArm, ClassRecord, Wish
    from orchestrator.study.shares import Shares

_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2.0**10, "mi": 2.0**20, "gi": 2.0**30, "ti": 2.0**40}


@dataclass(frozen=True)
class PlanReport:
    """A plan as JSON shows it."""

    mode: str
    status: str
    certified: bool
    reasons: tuple[str, ...]
    quality_fraction: float
    bound_fraction: float
    gap_fraction: float
    explored: int
    solver: str
    price_per_j: float
    energy_j: float
    energy_limit_j: float | None
    active: tuple[ActiveArm, ...]
    classes: tuple[ClassRecord, ...]
    shares: Shares | None
    nodes: NodesReport | None


@click.command("plan", short_help="Choose the active arms for your traffic, with a certificate.")
@TABLE
@ARMS
@ENCODER
@TOKENIZER
@click.option("--max-energy", type=ENERGY, help="Joules if every active arm ran for one query.")
@click.option("--mean-energy", type=ENERGY, help="Joules of a query on the average; one arm runs per query.")
@click.option("--min-quality", type=click.FloatRange(0.0, 1.0), help="Fewest joules that reach this mean quality.")
@click.option("--max-latency", multiple=True, metavar="[TASK=]TIME", help="Slower arms do not serve the task.")
@click.option("--memory", multiple=True, metavar="NODE=BYTES", help="What fits on a node, such as orin=24GiB.")
@click.option("--max-active", type=click.IntRange(1), help="Most active arms.")
@click.option("--any-right", is_flag=True, help="Worth is that one of the arms is right, not what the best is worth.")
@click.option("--fanout", type=click.IntRange(1, 4), default=1, show_default=True, help="Arms per query, with both.")
@click.option("--gap", type=click.FloatRange(0.0, 0.5), default=0.0, show_default=True, help="Stop this near the best.")
@idle_options
@output_option
@click.pass_obj
def plan(session: Session, /, *, table: Path, arms: Path, output: str, **asked: Any) -> None:
    """Choose the active set of arms and prove it optimal.

    With --max-energy, or without an energy limit, every active arm may run for one query; with --mean-energy one runs,
    chosen per query, and the limit holds on the average. Qualities are estimates by fits that had not seen the prompt;
    joules are modelled from the arms file. With --nodes the joules of idling count within the limit too, and the plan
    says which nodes stay awake.
    """
    from optimizer.selection.certify import certify
    from orchestrator.study.arms import read_arms

    wish = _wish(asked)
    idling = read_idling(session, asked, {arm.node for arm in read_arms(arms)})
    if idling is not None and all(asked[name] is None for name in ("max_energy", "mean_energy", "min_quality")):
        raise click.UsageError("--nodes needs --max-energy, --mean-energy or --min-quality: idling counts among joules")
    sentences = load_encoder(asked["encoder"], asked["tokenizer"])
    whole = _problem(session, table, arms, wish, sentences=sentences)
    if idling is None:
        problem, solution = _solved(whole, asked)
        report = _report(problem, solution, certify(problem, solution))
    else:
        report = _with_nodes(_awake(whole, idling, asked), idling)
    _print(report, session, output)


def _wish(asked: dict[str, Any]) -> Wish:
    from orchestrator.study.planning import Wish

    if asked["max_energy"] is not None and asked["mean_energy"] is not None:
        raise click.UsageError("--max-energy and --mean-energy are two different plans; give one of them")
    return Wish(
        max_energy_j=asked["max_energy"],
        mean_energy_j=asked["mean_energy"],
        latency_ms=_named(asked["max_latency"], "--max-latency", _milliseconds, bare=True),
        memory_bytes=_named(asked["memory"], "--memory", _bytes, bare=False),
        max_active=asked["max_active"],
        fanout=asked["fanout"],
        any_right=asked["any_right"],
    )


def _named(entries: Sequence[str], option: str, read: Callable[[str], float], *, bare: bool) -> dict[str, float]:
    """NAME=VALUE entries; a bare VALUE is for every name."""
    found = {}
    for entry in entries:
        name, equals, value = entry.rpartition("=")
        if not equals and not bare:
            raise click.BadParameter(f"{entry!r}: write NODE=BYTES", param_hint=option)
        found[name] = read(value)
    return found


def _milliseconds(text: str) -> float:
    return DURATION.convert(text, None, None)


def _bytes(text: str) -> float:
    number = text.rstrip("BbiIkKmMgGtT ")
    unit = text[len(number) :].strip().lower().removesuffix("b")
    try:
        return float(number) * _UNITS[unit]
    except (KeyError, ValueError):
        raise click.BadParameter(f"{text!r}: write bytes, such as 24GiB or 8e9", param_hint="--memory") from None


def _problem(session: Session, table: Path, arms: Path, wish: Wish, *, sentences: SentenceEncoder | None) -> Problem:
    from optimizer.study.foreseen import foresee
    from orchestrator.study.arms import read_arms
    from orchestrator.study.planning import plan_problem
    from orchestrator.study.tables import join_tokens, read_traffic

    listed = read_arms(arms)
    loaded, tokens_qm = join_tokens(read_traffic(table, note=session.note), listed, note=session.note)
    session.note(f"{len(loaded.texts)} prompts, {len(loaded.models)} models, {len(set(loaded.tasks))} tasks")
    quality_qm = foresee(loaded, folds=folds_for(loaded), sentences=sentences, progress=session.note)
    return plan_problem(loaded, tokens_qm, quality_qm, listed, wish)


def _solved(problem: Problem, asked: dict[str, Any]) -> tuple[Problem, Solution]:
    """The problem, with the energy limit that a least quality leads to, and its solution.

    Raises:
        StudyError: No arm fits, or nothing reaches the quality.
    """
    from optimizer.selection.exact import Search
    from optimizer.selection.minimum import least_energy, limited
    from optimizer.selection.solution import Status
    from optimizer.selection.solve import solve
    from orchestrator.errors import ExitCode
    from orchestrator.study.errors import StudyError

    search = Search(gap=asked["gap"], prove=True)
    if asked["min_quality"] is not None:
        least = least_energy(problem, min_quality=asked["min_quality"], search=search)
        if least.solution.status is Status.INFEASIBLE:
            best = solve(problem, search).objective
            why = f"no set within these limits reaches {asked['min_quality']:g}; the best reaches {best:.4f}"
            raise StudyError(why, "ask for less, or allow more", exit_code=ExitCode.BUDGET_INFEASIBLE)
        problem = limited(problem, least.energy_j)
    solution = solve(problem, search)
    if solution.status is Status.INFEASIBLE:
        least_j = min(arm.energy_j for arm in problem.arms)
        cure = f"the cheapest arm takes {least_j:.4g} J; look at --max-latency and --memory too"
        raise StudyError("no arm fits these limits", cure, exit_code=ExitCode.BUDGET_INFEASIBLE)
    return problem, solution


def _awake(problem: Problem, idling: Idling, asked: dict[str, Any]) -> NodePlan:
    """The nodes and their active set, within the limit or with the fewest joules that reach a least quality.

    Raises:
        StudyError: No nodes leave an arm that fits, or nothing reaches the quality.
    """
    from optimizer.selection.exact import Search
    from optimizer.selection.idling import choose_nodes, least_energy_awake
    from optimizer.selection.solution import Status
    from orchestrator.errors import ExitCode
    from orchestrator.study.errors import StudyError

    search, least = Search(gap=asked["gap"]), asked["min_quality"]
    if least is None:
        found = choose_nodes(problem, idling.stays, search=search)
    else:
        found = least_energy_awake(problem, idling.stays, min_quality=least, search=search).plan
    if found.solution.status is Status.INFEASIBLE:
        why = "no nodes leave an arm that fits these limits" if least is None else f"nothing reaches {least:g}"
        cure = "allow more joules; idling of a node that stays awake counts among them"
        raise StudyError(why, cure, exit_code=ExitCode.BUDGET_INFEASIBLE)
    return found


def _with_nodes(found: NodePlan, idling: Idling) -> PlanReport:
    """The bound is that of all choices of nodes, and a certificate holds where each of their bounds was checked."""
    from optimizer.selection.solution import Verdict

    solution = replace(found.solution, bound=found.bound)
    report = _report(found.problem, solution, Verdict(not found.reasons, found.reasons))
    return replace(report, nodes=nodes_report(found, idling, report.energy_j))


def _report(problem: Problem, solution: Solution, verdict: Verdict) -> PlanReport:
    from optimizer.selection.pricing import best_policy
    from orchestrator.study.planning import active_arms, class_records
    from orchestrator.study.shares import share_budget

    shares = None
    spent_j, limit_j = sum(problem.arms[n].energy_j for n in solution.active), problem.limits.energy_j
    if problem.routing is not None:
        limit_j = problem.routing.mean_energy_j
        spent_j = best_policy(problem.options(solution.active), limit_j).energy_j
        shares = share_budget(problem, solution.active) if problem.routing.fanout == 1 else None
    return PlanReport(
        mode=problem.mode.value,
        status=solution.status.value,
        certified=verdict.ok,
        reasons=verdict.reasons,
        quality_fraction=solution.objective,
        bound_fraction=solution.bound,
        gap_fraction=solution.gap / solution.objective if solution.objective > 0.0 else 0.0,
        explored=solution.explored,
        solver=solution.solver,
        price_per_j=solution.price_per_j,
        energy_j=spent_j,
        energy_limit_j=limit_j,
        active=tuple(active_arms(problem, solution)),
        classes=tuple(class_records(problem, solution)),
        shares=shares,
        nodes=None,
    )


def _print(report: PlanReport, session: Session, output: str) -> None:
    from orchestrator.cli.output import console, print_json

    if output == "json":
        print_json(report)
        return
    screen = console(color=session.color)
    screen.print(_headline(report))
    screen.print(_arms_table(report))
    screen.print(_classes_table(report))
    if report.shares is not None:
        screen.print(_shares_table(report.shares))
    if report.nodes is not None:
        screen.print(nodes_text(report.nodes))


def _headline(report: PlanReport) -> str:
    from orchestrator.cli.output import energy_or_dash, percent

    proof = "certificate checked" if report.certified else "NOT CERTIFIED: " + "; ".join(report.reasons)
    per = "joules of a query on the average" if report.mode == "routed" else "joules if every active arm ran"
    limit = "no limit" if report.energy_limit_j is None else f"limit {energy_or_dash(report.energy_limit_j)}"
    lines = [
        f"[bold]{report.mode.replace('_', ' ')} plan[/]: {report.status}, {proof}; {report.explored} boxes explored",
        f"  quality  {percent(report.quality_fraction)}; within the limits none above {percent(report.bound_fraction)}",
        f"  energy   {energy_or_dash(report.energy_j)}: {per} ({limit})",
    ]
    if report.price_per_j > 0.0:
        points = report.price_per_j * 100.0
        lines.append(f"  price    +1 J buys about {points:.3g} points")
    return "\n".join(lines)


def _arms_table(report: PlanReport) -> Any:
    from orchestrator.cli.output import duration_or_dash, energy_or_dash, percent, safe, table

    rows = table("\nActive arms", ("arm", ">answers best", ">energy", ">p95 of slowest task"))
    for arm in report.active:
        cells = (percent(arm.share_fraction), energy_or_dash(arm.energy_j), duration_or_dash(arm.latency_ms))
        rows.add_row(safe(arm.name), *cells)
    return rows


def _classes_table(report: PlanReport) -> Any:
    from orchestrator.cli.output import duration_or_dash, percent, safe, table

    rows = table("\nTasks", ("task", ">share", ">quality", ">latency limit"))
    for one in report.classes:
        limit = "–" if one.latency_limit_ms is None else duration_or_dash(one.latency_limit_ms)
        rows.add_row(safe(one.task) or "(none)", percent(one.weight_fraction), percent(one.quality_fraction), limit)
    return rows


def _shares_table(shares: Shares) -> Any:
    from orchestrator.cli.output import energy_or_dash, percent, safe, table

    rows = table(
        "\nOne price per task: how the budget is shared", ("task", ">joules", ">quality", "one joule more buys")
    )
    for one in shares.tasks:
        buys = "nothing" if one.points_per_j <= 0.0 else f"{one.points_per_j:+.3g} points"
        rows.add_row(
            safe(one.task) or "(none)",
            energy_or_dash(one.energy_j),
            percent(one.quality_fraction),
            buys + (", the best use of the next joule" if one.next else ""),
        )
    more = f"{100 * shares.gap_fraction:.2g} points more"
    quality = f"{percent(shares.quality_fraction)} of the mean query"
    rows.caption = f"{quality}; no other prices of the grid reach {more} ({shares.solver})"
    return rows
