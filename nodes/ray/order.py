"""What an actor is told. Imports nothing: an agent that comes back waits for what its actor imports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Order:
    """An agent to run: everything but secrets, and nothing of where.

    Attributes:
        name: Of the node.
        gateway: HOST:PORT that the agent dials; None where it joins with TLS and its identity knows.
        options: Of `edgewise node run`, less those that say where the gateway is.
        revision: Changes when anything about the agent does.
    """

    name: str
    gateway: str | None
    options: tuple[str, ...]
    revision: str
