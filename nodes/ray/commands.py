"""`python -m nodes ray …`: a cluster's side of `edgewise ray` as lines of JSON, and the check of `--workers ray`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import click

from nodes.errors import ExitCode, NodeError
from nodes.ray import guard
from nodes.ray.contract import Placement
from nodes.ray.head import ensure_head, stop_head
from nodes.ray.spec import LOCAL, AgentSpec, FleetSpec, order_for, read_spec

FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def ray() -> None:
    """Place agents on a Ray cluster; `edgewise ray` calls this."""


@ray.command()
@click.argument("address")
@click.option("--token-file", type=FILE, default=Path("~/.ray/auth_token"), show_default=True)
def check(address: str, token_file: Path) -> None:
    """Refuse the cluster at ADDRESS unless it wants a token and there is one here."""
    guard.with_token(token_file.expanduser(), os.environ)
    guard.check_cluster(address)


@ray.command()
@click.option("--spec", type=FILE, required=True)
@click.option("--start", is_flag=True, help="Start the head where the file says `local` and none runs.")
def control(spec: Path, start: bool) -> None:
    """Read one order per line from standard input and answer each with one line."""
    from nodes.ray.placement import connect, require_ray

    # Ray writes to stdout as it pleases; the answers must stay alone on theirs.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def opened() -> Control:
        fleet = read_spec(spec)
        require_ray()
        if start and fleet.cluster.address == LOCAL:
            ensure_head(fleet.cluster, lambda text: click.echo(text, err=True))
        return Control(fleet, connect(fleet.cluster))

    serve(opened, sys.stdin, answers)


@ray.command()
@click.option("--spec", type=FILE, required=True)
def stop(spec: Path) -> None:
    """End the head that was started here, and all that it started."""
    cluster = read_spec(spec).cluster
    if cluster.address != LOCAL:
        raise click.UsageError(f"the head at {cluster.address} was not started from here; stop it where it runs")
    click.echo(f"{stop_head(cluster)} processes ended", err=True)


class Control:
    """The orders that a control process takes; each gets plain values and returns plain values."""

    def __init__(self, fleet: FleetSpec, placement: Placement) -> None:
        self._fleet, self._placement = fleet, placement

    def wanted(self, *, gateway: str | None) -> list[dict[str, Any]]:
        """Names and revisions of the file's agents."""
        return [{"name": a.name, "revision": self._revision(a, gateway)} for a in self._fleet.agents]

    def agents(self, *, timeout_s: float) -> list[dict[str, Any]]:
        """What is on the cluster."""
        return [asdict(placed) for placed in self._placement.agents(timeout_s=timeout_s)]

    def place(self, *, name: str, gateway: str | None) -> None:
        """Place one of the file's agents."""
        (agent,) = (agent for agent in self._fleet.agents if agent.name == name)
        self._placement.place(order_for(agent, gateway, version("edgewise")))

    def admit(self, *, name: str, url: str, token: str) -> None:
        """Hand a join token on."""
        self._placement.admit(name, url=url, token=token)

    def drain(self, *, name: str, for_s: float) -> bool:
        """Drain an agent."""
        return self._placement.drain(name, within_s=for_s)

    def remove(self, *, name: str) -> None:
        """Remove an agent."""
        self._placement.remove(name)

    def _revision(self, agent: AgentSpec, gateway: str | None) -> str:
        return order_for(agent, gateway, version("edgewise")).revision


ORDERS = ("wanted", "agents", "place", "admit", "drain", "remove")


def serve(opened: Callable[[], Control], orders: TextIO, answers: TextIO) -> None:
    """Answer orders until they end; the first answer says whether there is a cluster.

    An order is ``{"do": NAME, …}``, an answer ``{"value": …}`` or ``{"error": TEXT, "exit_code": CODE}``.
    """
    try:
        control = opened()
    except NodeError as error:
        _say(answers, _told(error))
        sys.exit(error.exit_code)
    _say(answers, {"value": None})
    for line in _lines(orders):
        _say(answers, answer(control, line))


def answer(control: Control, line: str) -> dict[str, Any]:
    """The answer to one order."""
    try:
        order: Mapping[str, Any] = json.loads(line)
        verb = order["do"]
        if verb not in ORDERS:
            raise KeyError(verb)
    except (ValueError, KeyError, TypeError) as error:
        return {"error": f"no order ({error}); compare versions", "exit_code": ExitCode.USAGE}
    try:
        return {"value": getattr(control, verb)(**{key: value for key, value in order.items() if key != "do"})}
    except NodeError as error:
        return _told(error)


def _told(error: NodeError) -> dict[str, Any]:
    return {"error": error.message, "exit_code": int(error.exit_code)}


def _lines(orders: TextIO) -> Iterator[str]:
    return (line for line in iter(orders.readline, "") if line.strip())


def _say(answers: TextIO, value: Mapping[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()
