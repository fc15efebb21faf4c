"""What can go wrong with a cluster; each says what to do."""

from __future__ import annotations

from nodes.errors import ConfigError, ExitCode, NodeError


class RayProblem(NodeError):
    """Something about the cluster.

    Args:
        why: What is wrong.
        cure: What to do.
    """

    def __init__(self, why: str, cure: str) -> None:
        super().__init__(f"{why}; {cure}")
        self.why, self.cure = why, cure


class RayMissing(RayProblem):
    """The extra is not installed."""

    exit_code = ExitCode.CONFIG


class SpecRefused(RayProblem, ConfigError):
    """The file of agents is wrong."""

    exit_code = ExitCode.CONFIG


class ClusterRefused(RayProblem):
    """A cluster that lets anybody in, or listens where it must not; nothing was placed on it."""

    exit_code = ExitCode.AUTH


class ClusterLost(RayProblem):
    """Nobody answers at the cluster's address, or not any more."""

    exit_code = ExitCode.UNREACHABLE


class AgentNotPlaced(RayProblem):
    """An agent has no actor, or its actor does not answer."""

    exit_code = ExitCode.NOT_FOUND
