"""What keeps agents from being placed, and what to do about it."""

from __future__ import annotations

from orchestrator.errors import ExitCode


class PlacementError(Exception):
    """A cluster, a spec or an agent does not do what it should.

    Args:
        why: What was found.
        cure: What to do.
        what: In two or three words.
        exit_code: Of the command.
    """

    def __init__(
        self, why: str, cure: str, *, what: str = "Ray refused", exit_code: ExitCode = ExitCode.FAILED
    ) -> None:
        super().__init__(why)
        self.what, self.why, self.cure, self.exit_code = what, why, cure, exit_code
