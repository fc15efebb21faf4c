"""How a request ends of which every attempt failed: pure, no clock."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from orchestrator.admission import overloaded
from orchestrator.errors import EdgewiseError, Unavailable
from orchestrator.types import AttemptRecord

NODE_BUSY = "NODE_BUSY"
RETRY_AFTER_S = 0.5


def exhausted(reasons: Collection[str]) -> str:
    """The reason of the end: nodes that only had no room are no failure of theirs."""
    return "OVERLOADED" if reasons and set(reasons) == {NODE_BUSY} else "ATTEMPTS_FAILED"


def why_exhausted(attempts: Sequence[AttemptRecord]) -> EdgewiseError:
    """The error that the caller gets."""
    reasons = list(dict.fromkeys(attempt.reason for attempt in attempts))
    if exhausted(reasons) == "OVERLOADED":
        return overloaded(RETRY_AFTER_S)
    said = ", ".join(reasons) or "no arm"
    return Unavailable(
        "ATTEMPTS_FAILED",
        f"No expert could answer ({said}); the same call may succeed later.",
        metadata={"reasons": said, "attempts": str(len(attempts))},
        retry_after_s=RETRY_AFTER_S,
    )
