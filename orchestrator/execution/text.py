"""One text query: stream the chosen expert's tokens; another arm takes over only while nothing was delivered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from edgewise.v1 import fleet_pb2
from orchestrator.errors import DeadlineExceeded, Unavailable
from orchestrator.execution.attempt import Ask, AttemptFailed, Attempts, Trial
from orchestrator.execution.run import Decide, Progress, bound_of, wire_limit_j
from orchestrator.fleet.session import SessionEnded
from orchestrator.types import Delta, TextQuery


@dataclass(frozen=True)
class TextEnd:
    """The end of a generation."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class TextRunner:
    """Runs routed text queries.

    Args:
        attempts: Sends work to nodes.
        max_attempts: Arms that are tried while nothing was delivered.
    """

    def __init__(self, attempts: Attempts, *, max_attempts: int) -> None:
        self._attempts = attempts
        self._max_attempts = max_attempts

    async def run(self, query: TextQuery, progress: Progress, decide: Decide) -> AsyncIterator[Delta | TextEnd]:
        """Pieces of text, then the end.

        Raises:
            DeadlineExceeded: The latency budget ran out.
            Unavailable: Every attempt failed, or one failed after text had been delivered.
        """
        whole_ms = progress.limits.max_latency_ms if progress.decision.within else query.deadline_s * 1000.0
        deadline_s = progress.started_s + whole_ms / 1000.0
        for _ in range(self._max_attempts):
            delivered = False
            try:
                async for piece in self._attempt(query, progress, deadline_s):
                    delivered = True
                    yield piece
                return
            except AttemptFailed as failure:
                progress.attempts.append(failure.record)
                if delivered or failure.final or not self._reroute(progress, decide):
                    break
            except TimeoutError:
                raise DeadlineExceeded(whole_ms) from None
        raise Unavailable("ATTEMPTS_FAILED", "No expert could answer; the same call may succeed later.")

    def _reroute(self, progress: Progress, decide: Decide) -> bool:
        bound = progress.decision.route
        if bound is not None:
            progress.avoid = progress.avoid | {bound.arms[0][0]}
        decision = decide(progress.left(), progress.avoid)
        if decision is None or decision.route is None or not progress.covers(bound_of(decision)):
            return False
        progress.decision = decision
        return True

    async def _attempt(self, query: TextQuery, progress: Progress, deadline_s: float) -> AsyncIterator[Delta | TextEnd]:
        bound = progress.decision.route
        if bound is None:
            raise Unavailable("ATTEMPTS_FAILED", "No expert could answer; the same call may succeed later.")
        limit_j = progress.allowed_j
        ask = Ask(
            index=bound.arms[0][0],
            stage=0,
            request_id=query.request_id,
            fill=lambda work: _fill(work, query),
            deadline_s=deadline_s,
            energy_limit_j=wire_limit_j(limit_j),
            spare=lambda: False,
            given_up=progress.attempts.append,
        )
        trial = self._attempts.start_text(ask)
        started_s = time.monotonic()
        try:
            while (piece := await _within(trial, deadline_s)) is not None:
                yield piece
            done, record = trial.conclude(trial.result().result())
        except SessionEnded:
            raise trial.failure("NODE_GONE") from None
        except (TimeoutError, asyncio.CancelledError, GeneratorExit):
            ask.given_up(trial.cancelled())
            raise
        finally:
            progress.infer_s += time.monotonic() - started_s
            trial.close()
        progress.attempts.append(record)
        yield TextEnd(done.text, done.finish_reason, done.prompt_tokens, done.completion_tokens)


async def _within(trial: Trial, deadline_s: float) -> Delta | None:
    async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
        return await trial.delta()


def _fill(work: fleet_pb2.Work, query: TextQuery) -> None:
    parameters = query.parameters
    for message in query.messages:
        work.text.messages.add(role=message.role, content=message.content)
    work.text.parameters.max_tokens = parameters.max_tokens
    work.text.parameters.stop.extend(parameters.stop)
    for name in ("temperature", "top_p", "seed"):
        value = getattr(parameters, name)
        if value is not None:
            setattr(work.text.parameters, name, value)
