"""`edgewise simulate`: what a fleet would do under a load, before anybody buys it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.context import Session, gateway_option, output_option
from orchestrator.cli.params import DURATION, ENERGY, INFEASIBLE, POWER, PROFILES, SPAN, make_budget, make_long_run

if TYPE_CHECKING:
    from rich.table import Table

    from orchestrator.simulation.figures import Summary
    from orchestrator.simulation.load import Kill
    from orchestrator.simulation.scenario import Answer, Arrivals
    from orchestrator.simulation.world import World

FILE = click.Path(path_type=Path, dir_okay=False)
MOST_ADDED = 100_000
MOST_RATE = 1e6
SHOWN_NODES = 12

_RATE = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,2})?)/(?P<unit>s|min|h)")
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


class RateParam(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2 only
    """Requests per second from texts such as 50/s or 600/min."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Requests per second."""
        if isinstance(value, float):
            return value
        match = _RATE.fullmatch(str(value).strip())
        rate_per_s = float(match["number"]) / _SECONDS[match["unit"]] if match else 0.0
        if not 0.0 < rate_per_s <= MOST_RATE:
            return self.fail(f"{value!r}: write a rate such as 50/s, 600/min or 1000/h, up to 1e6/s", param, ctx)
        return rate_per_s


class CountParam(click.ParamType):  # type: ignore[type-arg]
    """DEVICE=COUNT."""

    name = "device=count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Name and number."""
        if isinstance(value, tuple):
            return value
        name, equals, count = str(value).rpartition("=")
        if not (name and equals and count.isascii() and count.isdigit() and 0 < int(count) <= MOST_ADDED):
            return self.fail(f"{value!r}: write DEVICE=COUNT, for example jetson-agx-orin=2", param, ctx)
        return name, int(count)


class KillParam(click.ParamType):  # type: ignore[type-arg]
    """NODE@TIME."""

    name = "node@time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        """Name and seconds."""
        if isinstance(value, tuple):
            return value
        node, at, moment = str(value).rpartition("@")
        if not (node and at):
            return self.fail(f"{value!r}: write NODE@TIME, for example laptop-1@30s", param, ctx)
        return node, SPAN.convert(moment, param, ctx)


RATE, COUNT, KILL = RateParam(), CountParam(), KillParam()


class ArrivalsParam(click.ParamType):  # type: ignore[type-arg]
    """poisson:RATE."""

    name = "poisson:rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Requests per second."""
        if isinstance(value, float):
            return value
        kind, _, rate = str(value).partition(":")
        if kind != "poisson" or not rate:
            return self.fail(f"{value!r}: write poisson:RATE, for example poisson:50/s, or use --trace", param, ctx)
        return RATE.convert(rate, param, ctx)


@click.command(short_help="Ask what a fleet would do under a load.")
@gateway_option
@click.option("--fleet", type=FILE, help="The fleet: devices, nodes, tasks (YAML or JSON).")
@click.option("--from-gateway", is_flag=True, help="Take the running gateway's arms for the fleet.")
@click.option("--arrivals", type=ArrivalsParam(), help="Requests at random, e.g. poisson:50/s.")
@click.option("--trace", type=FILE, help="Requests as recorded: csv with time_s or TIMESTAMP.")
@click.option("--rate", type=RATE, help="Bring the trace to this rate, e.g. 50/s.")
@click.option("--duration", type=SPAN, default="10m", show_default=True, help="For how long requests come.")
@click.option("--requests", type=click.IntRange(1, 20_000_000), help="So many of --arrivals instead of --duration.")
@click.option("--max-energy", type=ENERGY, help="Joules per request of every task, e.g. 5mJ.")
@click.option("--max-latency", type=DURATION, help="Time per request of every task, e.g. 300ms.")
@click.option("--on-infeasible", type=INFEASIBLE, help="What happens when nothing fits.")
@click.option("--profile", type=click.Choice(PROFILES), help="How many joules a better answer is worth.")
@click.option("--average-energy", type=ENERGY, help="Joules per request, averaged over many.")
@click.option("--average-power", type=POWER, help="Watts, averaged over time.")
@click.option("--add", type=COUNT, multiple=True, help="Compare with so many more, e.g. jetson-agx-orin=2.")
@click.option("--remove", type=COUNT, multiple=True, help="Compare with so many fewer.")
@click.option("--kill", type=KILL, multiple=True, help="A node's process dies, e.g. laptop-1@30s.")
@click.option("--silence", type=KILL, multiple=True, help="A node loses power or network, e.g. laptop-1@30s.")
@click.option("--warm-up", type=SPAN, help="Leave the first requests out of the figures, e.g. 30s.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of all chance.")
@output_option
@click.pass_obj
def simulate(session: Session, /, *, output: str, **asked: Any) -> None:
    """Simulate a fleet under a load with the gateway's own decisions, and what more or fewer nodes would change.

    \b
    edgewise simulate --fleet fleet.yaml --arrivals poisson:50/s --duration 10m --add jetson-agx-orin=2

    Every figure is modelled. Both fleets of a comparison see the same requests and the same luck.
    """
    from orchestrator.simulation.scenario import Question, answer, with_budget

    world = _world(session, asked["fleet"], from_gateway=asked["from_gateway"])
    budget = make_budget(
        asked["max_energy"], asked["max_latency"], on_infeasible=asked["on_infeasible"], profile=asked["profile"]
    )
    long_run = make_long_run(asked["average_energy"], asked["average_power"])
    if budget is not None or long_run is not None:
        from orchestrator.longrun import NO_LONG_RUN
        from orchestrator.types import BudgetRequest

        world = with_budget(world, budget or BudgetRequest(), long_run or NO_LONG_RUN)
    question = Question(
        world,
        _arrivals(asked),
        asked["seed"],
        (*_kills(asked["kill"], silent=False), *_kills(asked["silence"], silent=True)),
        add=dict(asked["add"]),
        remove=dict(asked["remove"]),
        warm_up_s=asked["warm_up"] or 0.0,
    )
    _print(answer(question, progress=session.note), session, output)


def _world(session: Session, fleet: Path | None, *, from_gateway: bool) -> World:
    if (fleet is not None) == from_gateway:
        raise click.UsageError("give --fleet FILE or --from-gateway, one of them")
    if fleet is not None:
        from orchestrator.simulation.fleet_file import read_fleet

        return read_fleet(fleet)
    from orchestrator.simulation.from_gateway import world_of

    with session.client() as client:
        return world_of(client.status(), client.budgets())


def _arrivals(asked: dict[str, Any]) -> Arrivals:
    from orchestrator.simulation.arrivals import read_trace
    from orchestrator.simulation.scenario import Arrivals

    if (asked["arrivals"] is None) == (asked["trace"] is None):
        raise click.UsageError("give --arrivals poisson:RATE or --trace FILE, one of them")
    if asked["trace"] is None:
        if asked["rate"] is not None:
            raise click.UsageError("--rate belongs to --trace; write --arrivals poisson:RATE")
        return Arrivals(asked["arrivals"], asked["duration"], asked["requests"])
    if asked["requests"] is not None:
        raise click.UsageError("--requests belongs to --arrivals; a trace is bounded by --duration")
    return Arrivals(asked["rate"], asked["duration"], trace=read_trace(asked["trace"]))


def _kills(asked: Iterable[tuple[str, float]], *, silent: bool) -> tuple[Kill, ...]:
    from orchestrator.simulation.load import Kill

    return tuple(Kill(node, at_s, silent) for node, at_s in asked)


# ---- how answers look


def _print(found: Answer, session: Session, output: str) -> None:
    from orchestrator.cli.output import console, print_json

    if output == "json":
        print_json(found)
        return
    screen = console(color=session.color)
    screen.print(_scenarios(found))
    if found.changed is not None:
        screen.print(_differences(found))
    shown = found.changed or found.base
    if len(shown.tasks) > 1:
        screen.print(_tasks(shown))
    screen.print(_devices(shown))
    if shown.idle_unknown:
        screen.print(f"Idle power is unknown of {shown.idle_unknown} nodes; their idle joules are not in the sum.")
    screen.print("All figures are modelled.")


def _scenarios(found: Answer) -> Table:
    from orchestrator.cli.output import duration_or_dash, energy_or_dash, percent, table

    rows = table(None, ("", ">as it is", *([">changed"] if found.changed else [])))
    both = [found.base, *([found.changed] if found.changed else [])]
    rows.add_row("nodes", *(str(one.nodes_total) for one in both))
    rows.add_row("requests", *(str(one.all.requests) for one in both))
    rows.add_row("answered", *(percent(one.all.answered_fraction) for one in both))
    for reason in sorted({reason for one in both for reason in one.all.ends} - {"ANSWERED"}):
        rows.add_row(f"  {reason.lower()}", *(percent(one.all.ends.get(reason, 0.0)) for one in both))
    rows.add_row("quality (expected)", *(percent(one.all.quality_fraction) for one in both))
    rows.add_row("joules per answer", *(energy_or_dash(one.all.energy_j) for one in both))
    rows.add_row("active joules", *(energy_or_dash(one.active_j) for one in both))
    rows.add_row("idle joules", *(energy_or_dash(one.idle_j) for one in both))
    for name in ("p50_ms", "p95_ms", "p99_ms"):
        rows.add_row(name.removesuffix("_ms"), *(duration_or_dash(getattr(one.all, name)) for one in both))
    return rows


def _differences(found: Answer) -> Table:
    from orchestrator.cli.output import table

    rows = table(
        "What the change does, batch by batch, same requests and same luck",
        ("figure", ">changed minus as it is", ">95 % interval", ""),
    )
    for name, one in found.differences.items():
        scale = 100.0 if name.endswith("_fraction") else 1.0
        unit = name.rpartition("_")[2].replace("fraction", "points").replace("j", "J")
        span = f"{one.low * scale:+.4g} to {one.high * scale:+.4g}"
        label = name.rpartition("_")[0].replace("energy", "joules per answer")
        rows.add_row(label, f"{one.mean * scale:+.4g} {unit}", span, "" if one.sure else "not sure")
    return rows


def _tasks(summary: Summary) -> Table:
    from orchestrator.cli.output import duration_or_dash, energy_or_dash, percent, safe, table

    rows = table("\nBy task", ("task", ">requests", ">answered", ">quality", ">joules per answer", ">p50", ">p95"))
    for name, one in summary.tasks.items():
        rows.add_row(
            safe(name),
            str(one.requests),
            percent(one.answered_fraction),
            percent(one.quality_fraction),
            energy_or_dash(one.energy_j),
            duration_or_dash(one.p50_ms),
            duration_or_dash(one.p95_ms),
        )
    return rows


def _devices(summary: Summary) -> Table:
    """By node where there are few, by device where there are many."""
    from orchestrator.cli.output import energy_or_dash, percent, safe, table

    few = len(summary.nodes) <= SHOWN_NODES
    groups: dict[str, list[Any]] = {}
    for node in summary.nodes:
        groups.setdefault(node.node if few else node.device, []).append(node)
    columns = ("node" if few else "device", ">nodes", ">answered", ">busy", ">busiest", ">longest queue", ">active")
    rows = table("\nBy node" if few else "\nBy device", columns)
    for name, nodes in groups.items():
        busy = [node.utilisation_fraction for node in nodes]
        rows.add_row(
            safe(name),
            str(len(nodes)),
            str(sum(node.answered for node in nodes)),
            percent(sum(busy) / len(busy)),
            percent(max(busy)),
            str(max(node.longest_queue for node in nodes)),
            energy_or_dash(sum(node.active_j for node in nodes)),
        )
    return rows
