"""What can go wrong on a node, and the exit code that each case gives.

::

    NodeError
    ├── ConfigError                 a flag, a file or a name is wrong; nothing was started
    ├── EnergySourceMissing         the energy source that was asked for cannot be read here
    ├── SessionRejected             the gateway does not take this node
    ├── EngineError                 the engine could not do this piece of work
    │   ├── EngineDied              its process ended; the same work may succeed elsewhere or later
    │   ├── EngineBusy              the bounded queue is full
    │   ├── ArmQuarantined          the model took its process down too often
    │   └── DeadlinePassed          the work's time ran out before it could start
    ├── ArtifactRefused             a model that was sent here is not taken; says why in the gateway's own words
    └── InputInvalid                the tensors do not fit the expert

Texts of these errors go to the node's own log and terminal; a gateway is told the reason, never the text of a
foreign exception.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class ExitCode(IntEnum):
    """Exit codes of `python -m nodes`; the numbers are those of the `edgewise` command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CONFIG = 3
    NOT_FOUND = 4
    AUTH = 5
    UNREACHABLE = 6
    BUDGET_INFEASIBLE = 7
    ENGINE_FAILED = 8
    ENERGY_SOURCE_MISSING = 9
    INTERRUPTED = 130


class NodeError(Exception):
    """Root of the node's own errors.

    Args:
        message: One line: what is wrong and what would be right.
    """

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConfigError(NodeError):
    """What the operator asked for does not fit together."""

    exit_code = ExitCode.CONFIG


class EnergySourceMissing(NodeError):
    """The energy source that was asked for cannot be read on this machine.

    Args:
        problem: What is wrong.
        cure: What would make it right; "" where nothing is known to.
    """

    exit_code = ExitCode.ENERGY_SOURCE_MISSING

    def __init__(self, problem: str, *, cure: str = "") -> None:
        super().__init__(f"{problem}; cure: {cure}" if cure else problem)
        self.problem = problem
        self.cure = cure


class SessionRejected(NodeError):
    """The gateway refuses this node, and trying again cannot help.

    Its exit code is AUTH where the gateway did not accept who this node is, else CONFIG.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"The gateway refused this node ({reason}): {message}")
        self.reason = reason
        if any(word in reason for word in ("AUTH", "PERMISSION", "CREDENTIAL", "IDENTITY")):
            self.exit_code = ExitCode.AUTH
        else:
            self.exit_code = ExitCode.CONFIG


class EngineError(NodeError):
    """The engine could not do this piece of work."""

    exit_code = ExitCode.ENGINE_FAILED


class EngineDied(EngineError):
    """The engine's process ended before it answered."""


class EngineBusy(EngineError):
    """The queue in front of the engine is full."""


class ArmQuarantined(EngineError):
    """The model was running each time its process crashed, so it is no longer offered."""


class DeadlinePassed(EngineError):
    """The work's time ran out while it waited."""


class InputInvalid(NodeError):
    """The tensors do not fit the expert's input."""

    exit_code = ExitCode.USAGE


class ArtifactRefused(NodeError):
    """A model that the gateway sent is not taken.

    Args:
        reason: UPPER_SNAKE, one of the gateway's catalogue.
        message: One sentence for whoever pushed it; never the text of a foreign exception.
    """

    exit_code = ExitCode.USAGE

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def first_problem(refusal: ValidationError) -> str:
    """Where the first thing is wrong in a file, and what; of it nothing is repeated."""
    problem = refusal.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'the file'}: {problem['msg']}"
