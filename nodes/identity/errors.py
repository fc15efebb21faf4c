"""What keeps a node from being believed, or from believing its gateway. All exit with the code for AUTH."""

from __future__ import annotations

from nodes.errors import ExitCode, NodeError


class IdentityProblem(NodeError):
    """A token, a certificate or a clock is wrong; trying again as it is cannot help."""

    exit_code = ExitCode.AUTH


class NoGateway(NodeError):
    """Nobody answers where the gateway should be."""

    exit_code = ExitCode.UNREACHABLE
