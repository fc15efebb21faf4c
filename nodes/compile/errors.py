"""What can go wrong while a model is compiled.

::

    EngineError
    └── CompileError            a form cannot be made or run here; the text says why
        ├── RuntimeMissing      the runtime that was asked for is not installed, or has no GPU
        ├── AccuracyLost        the form answers worse than allowed; carries what was measured
        └── EngineNotLocal      a kept file was not made by this node for this purpose; it is deleted
"""

from __future__ import annotations

from nodes.errors import EngineError


class CompileError(EngineError):
    """A compiled form cannot be made or run here."""


class RuntimeMissing(CompileError):
    """The runtime that was asked for is not here."""


class AccuracyLost(CompileError):
    """A form answers worse than allowed.

    Args:
        what: Arm and measurement, in words.
        loss_points: Right answers lost against the float model, in points of a hundred.
        limit_points: What was allowed.
    """

    def __init__(self, what: str, *, loss_points: float, limit_points: float) -> None:
        super().__init__(f"{what} loses {loss_points:.2f} points; {limit_points:g} are allowed")
        self.loss_points = loss_points
        self.limit_points = limit_points


class EngineNotLocal(CompileError):
    """A kept file is not what this node made: damaged, from elsewhere, or for another version."""

    reason = "ENGINE_NOT_LOCAL"
