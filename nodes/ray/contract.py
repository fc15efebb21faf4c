"""What is asked of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from nodes.ray.keeper import Report
from nodes.ray.order import Order
from nodes.ray.spec import AgentSpec


@dataclass(frozen=True)
class Placed:
    """An agent as the cluster and its keeper see it.

    Attributes:
        actor: The cluster's word for the actor: ALIVE, RESTARTING, PENDING_CREATION, DEAD, …
        ray_node: Id of the Ray node that it is on; "" where it is on none.
        restarts: Times that the cluster started the actor again.
        report: What the keeper says; None where it does not answer.
    """

    name: str
    actor: str
    ray_node: str
    restarts: int
    report: Report | None


class Placement(Protocol):
    """Agents on a cluster, each with an actor of its own name. Every method blocks, none for longer than it says.

    Every implementation passes `tests/nodes/ray/conformance.py`.
    """

    def agents(self, *, timeout_s: float) -> list[Placed]:
        """Every agent that has an actor, by name; one whose keeper does not answer in time is without report."""
        ...

    def place(self, agent: AgentSpec, order: Order) -> None:
        """Have an actor of the agent's name run it from now on, wherever it fits; does not wait for that.

        Raises:
            SpecRefused: There is one of this name.
        """
        ...

    def admit(self, name: str, *, url: str, token: str) -> None:
        """Hand a keeper a join token.

        Raises:
            AgentNotPlaced: It does not answer.
        """
        ...

    def drain(self, name: str, *, within_s: float) -> bool:
        """Have an agent finish and leave; whether it did in time.

        Raises:
            AgentNotPlaced: There is no such actor.
        """
        ...

    def remove(self, name: str) -> None:
        """Kill an actor, and with it its agent, for good. Does nothing where there is none."""
        ...
