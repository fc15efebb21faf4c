"""The cluster's side of `edgewise ray`: orders and answers, one line of JSON each."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, TextIO

from nodes.errors import ExitCode, NodeError
from nodes.ray.contract import Placement
from nodes.ray.spec import AgentSpec, FleetSpec, order_for


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
        self._placement.place(agent, order_for(agent, gateway, version("edgewise")))

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
