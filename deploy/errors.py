"""What keeps a deployment from going on: what failed, why, and what to do."""

from __future__ import annotations

from orchestrator.errors import ExitCode


class DeployError(Exception):
    """A step failed.

    Args:
        what: The step, in a few words.
        why: What was found.
        cure: What to do.
        exit_code: Of the command.
    """

    def __init__(self, what: str, why: str, cure: str, *, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(f"{what}; {why}; {cure}")
        self.what, self.why, self.cure, self.exit_code = what, why, cure, exit_code
