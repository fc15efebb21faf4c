"""Which steps lead from the agents that are there to those that are wanted. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

# Of an agent that left by itself, because an operator drained it.
GONE = frozenset({"drained"})


@dataclass(frozen=True)
class Wanted:
    """An agent of the spec."""

    name: str
    revision: str


@dataclass(frozen=True)
class Found:
    """An agent on the cluster, as its actor and its keeper say.

    Args:
        actor: State of the actor, in Ray's words.
        ray_node: Id of the Ray node; "" where there is none yet.
        host: Its host's name; "" where the keeper does not answer, as for all of the following.
        state: Of the agent: starting, running, backing off, needs token, draining, drained.
        restarts: Of the actor by Ray, and of the agent by its keeper.
        said: The last line that the agent wrote.
    """

    name: str
    actor: str
    ray_node: str
    restarts: int
    revision: str = ""
    version: str = ""
    host: str = ""
    state: str = ""
    keeper_pid: int | None = None
    agent_pid: int | None = None
    said: str = ""

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """From what the control process says."""
        own = {key: told[key] for key in ("name", "actor", "ray_node", "restarts")}
        report = told["report"]
        if report is None:
            return cls(**own)
        named = ("revision", "version", "host", "state", "keeper_pid", "agent_pid", "said")
        own["restarts"] += max(0, report["starts"] - 1)
        return cls(**own, **{key: report[key] for key in named})


class Kind(StrEnum):
    """What is done about one agent."""

    PLACE = "place"
    ROLL = "roll"
    KEEP = "keep"


@dataclass(frozen=True)
class Step:
    """One agent and what is done about it."""

    kind: Kind
    name: str
    revision: str


def steps_to(wanted: Sequence[Wanted], found: Sequence[Found], *, restart: bool = False) -> list[Step]:
    """A step per wanted agent, those first that are not there at all: they take nothing away while they come.

    Args:
        restart: Also replace agents that are as they should be.
    """
    there = {agent.name: agent for agent in found}
    steps = [Step(_kind(one, there.get(one.name), restart), one.name, one.revision) for one in wanted]
    return sorted(steps, key=lambda step: step.kind is not Kind.PLACE)


def strays(wanted: Sequence[Wanted], found: Sequence[Found]) -> list[str]:
    """Agents on the cluster that nobody wants; they are left alone and named."""
    return sorted({agent.name for agent in found} - {one.name for one in wanted})


def _kind(wanted: Wanted, found: Found | None, restart: bool) -> Kind:
    if found is None:
        return Kind.PLACE
    # One that does not answer may be about to be restarted by Ray: it is waited for, not replaced.
    changed = found.revision not in ("", wanted.revision) or found.state in GONE
    return Kind.ROLL if restart or changed else Kind.KEEP
