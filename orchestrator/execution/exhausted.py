"""How a request ends of which every attempt failed: pure, no clock."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from orchestrator.admission import overloaded
from orchestrator.errors import EdgewiseError, RequestError, Unavailable
from orchestrator.types import AttemptRecord

NODE_BUSY = "NODE_BUSY"
INPUT_INVALID = "INPUT_INVALID"
RETRY_AFTER_S = 0.5


def exhausted(reasons: Collection[str]) -> str:
    """The reason of the end: nodes that only had no room are no failure of theirs, nor is an input that none takes."""
    alone = reasons and set(reasons)
    if alone == {NODE_BUSY}:
        return "OVERLOADED"
    return INPUT_INVALID if alone == {INPUT_INVALID} else "ATTEMPTS_FAILED"


def why_exhausted(attempts: Sequence[AttemptRecord]) -> EdgewiseError:
    """The error that the caller gets."""
    reasons = list(dict.fromkeys(attempt.reason for attempt in attempts))
    end = exhausted(reasons)
    if end == "OVERLOADED":
        return overloaded(RETRY_AFTER_S)
    said = ", ".join(reasons) or "no arm"
    told = {"reasons": said, "attempts": str(len(attempts))}
    if end == INPUT_INVALID:
        text = "No expert takes this: it may be too long, or hold no message of a user; the same call will fail again."
        return RequestError(INPUT_INVALID, text, metadata=told)
    text = f"No expert could answer ({said}); the same call may succeed later."
    return Unavailable("ATTEMPTS_FAILED", text, metadata=told, retry_after_s=RETRY_AFTER_S)
