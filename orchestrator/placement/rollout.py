"""Places agents, and replaces them one by one: drained, removed, placed anew, waited for until the gateway has them.

The first one that does not come back stops the rest, so that a bad spec costs one agent and not the fleet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from orchestrator.errors import EdgewiseError, ExitCode
from orchestrator.placement.errors import PlacementError
from orchestrator.placement.steps import Found, Kind, Step, Wanted, steps_to, strays

HEALTHY = "healthy"
NEEDS_TOKEN = "needs token"  # noqa: S105 (a state)
POLL_S = 0.25
REPORT_S = 3.0
DRAIN_S = 30.0


class Orders(Protocol):
    """The way to the cluster: `orchestrator.placement.control.Control`, or a fake."""

    def ask(self, verb: str, *, within_s: float = ..., **fields: Any) -> Any:
        """The answer to an order."""
        ...


class Gateway(Protocol):
    """What is asked of the gateway; `ClientGateway`, or a fake."""

    @property
    def target(self) -> str | None:
        """What agents dial; None where they join with TLS."""
        ...

    def states(self) -> dict[str, str]:
        """State of every node by name; empty where nobody answers."""
        ...

    def ticket(self, name: str) -> tuple[str, str]:
        """URL and token with which a node of this name joins."""
        ...


@dataclass
class Rollout:
    """See the module.

    Args:
        note: Tells the operator something.
        ready_s: How long an agent may take until the gateway has it.
    """

    orders: Orders
    gateway: Gateway
    note: Callable[[str], None]
    ready_s: float = 120.0
    drain_s: float = DRAIN_S
    clock_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _admitted: set[str] = field(default_factory=set)

    def found(self) -> list[Found]:
        """The agents on the cluster."""
        told = self.orders.ask("agents", timeout_s=REPORT_S)
        return [Found.of(entry) for entry in told]

    def wanted(self) -> list[Wanted]:
        """The agents of the spec."""
        return [Wanted(**entry) for entry in self.orders.ask("wanted", gateway=self.gateway.target)]

    def up(self, *, restart: bool = False) -> None:
        """Go from what is there to what is wanted.

        Raises:
            PlacementError: An agent does not come, or the cluster is lost.
        """
        wanted, found = self.wanted(), self.found()
        steps = steps_to(wanted, found, restart=restart)
        for stray in strays(wanted, found):
            self.note(f"{stray}: on the cluster, not in the spec; left alone")
        fresh = [step for step in steps if step.kind is Kind.PLACE]
        for step in fresh:
            self._place(step)
        for step in fresh:
            self._await(step)
        for step in steps:
            if step.kind is Kind.ROLL:
                self._roll(step)
            elif step.kind is Kind.KEEP:
                self._await(step)

    def down(self) -> None:
        """Drain and remove the agents of the spec, one after the other."""
        there = {agent.name for agent in self.found()}
        for one in self.wanted():
            if one.name in there:
                self._remove(one.name)

    def _place(self, step: Step) -> None:
        self.orders.ask("place", name=step.name, gateway=self.gateway.target)
        self.note(f"{step.name}: placed")

    def _roll(self, step: Step) -> None:
        self._remove(step.name)
        self._place(step)
        self._await(step)

    def _remove(self, name: str) -> None:
        try:
            drained = self.orders.ask("drain", within_s=self.drain_s + 20.0, name=name, for_s=self.drain_s)
        except PlacementError as error:
            if error.exit_code is ExitCode.UNREACHABLE:
                raise
            drained = False
        self.orders.ask("remove", within_s=20.0, name=name)
        self.note(f"{name}: {'drained and removed' if drained else 'removed; it did not drain in time'}")

    def _await(self, step: Step) -> None:
        """Wait until the gateway has the agent, of this revision; hand it a token if it needs one."""
        until_s = self.clock_s() + self.ready_s
        found: Found | None = None
        while self.clock_s() < until_s:
            found = next((agent for agent in self.found() if agent.name == step.name), None)
            if found is not None and found.state == NEEDS_TOKEN:
                self._admit(step.name)
            if _serves(found, step) and self.gateway.states().get(step.name) == HEALTHY:
                self.note(f"{step.name}: the gateway has it")
                return
            self.sleep(POLL_S)
        why = f"{step.name}: not at the gateway after {self.ready_s:g} s ({_told(found)})"
        cure = "`edgewise ray status` shows what it does; the agents after it were left as they are"
        raise PlacementError(why, cure, what="agent missing", exit_code=ExitCode.UNREACHABLE)

    def _admit(self, name: str) -> None:
        if name in self._admitted:
            return
        self._admitted.add(name)
        url, token = self.gateway.ticket(name)
        self.orders.ask("admit", within_s=15.0, name=name, url=url, token=token)
        self.note(f"{name}: has a token and joins")


def _serves(found: Found | None, step: Step) -> bool:
    return found is not None and found.revision == step.revision and found.state == "running"


def _told(found: Found | None) -> str:
    if found is None:
        return "it has no actor"
    if not found.state:
        room = "no Ray node has room and labels for it" if not found.ray_node else "its keeper does not answer"
        return f"its actor is {found.actor}, {room}"
    return f"it is {found.state}{f', {found.said}' if found.said else ''}"


@dataclass(frozen=True)
class ClientGateway:
    """`Gateway` by a client.

    Args:
        client: Of the gateway.
        secure: Whether the gateway speaks TLS, so that nodes join with tokens.
    """

    client: Any
    address: str
    secure: bool

    @property
    def target(self) -> str | None:
        """See `Gateway`."""
        return None if self.secure else self.address

    def states(self) -> dict[str, str]:
        """See `Gateway`."""
        try:
            return {node.node: node.state for node in self.client.status().nodes}
        except EdgewiseError:
            return {}

    def ticket(self, name: str) -> tuple[str, str]:
        """See `Gateway`.

        Raises:
            PlacementError: An operator put the node out.
        """
        if any(entry.node == name and entry.state == "revoked" for entry in self.client.identities()):
            cure = f"take it out of the spec, or let it in again: `edgewise token create --name {name}`, then join it"
            raise PlacementError(f"{name} was revoked", cure, what="node revoked", exit_code=ExitCode.AUTH)
        made = self.client.create_token(name)
        return made.url, made.text


def state_rows(found: Sequence[Found], states: dict[str, str]) -> list[dict[str, Any]]:
    """What `status` shows: each agent, and how the gateway sees it."""
    return [{**vars(agent), "gateway": states.get(agent.name, "not seen")} for agent in found]
