"""What is wrong with a file that a study reads, and what to do about it."""

from __future__ import annotations

from orchestrator.errors import ExitCode


class StudyError(Exception):
    """A table, an arms file or a gate cannot be used.

    Args:
        why: What was found, naming file, row and column.
        cure: What to do.
        what: In two or three words.
        exit_code: Of the command.
    """

    def __init__(
        self, why: str, cure: str, *, what: str = "table refused", exit_code: ExitCode = ExitCode.USAGE
    ) -> None:
        super().__init__(why)
        self.what, self.why, self.cure, self.exit_code = what, why, cure, exit_code
