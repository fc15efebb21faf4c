"""Texts from a running server; the engine holds no model, only a bounded number of requests."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import structlog

from nodes.arms import ArmSpec
from nodes.engines.contract import EngineEvents, EngineState, Job, JobResult, TextEnd, TextJob, TextPiece
from nodes.engines.remote.reading import Reading, told_logprobs
from nodes.engines.remote.server import Server
from nodes.engines.remote.vectors import told_vectors
from nodes.engines.slots import Slots
from nodes.errors import DeadlinePassed, EngineBusy, EngineDied, EngineError

POLL_S = 5.0
POLL_TIMEOUT_S = 5.0
# A server that does not answer once may only be slow.
AWAY_AFTER = 2
DEFAULT_TOKENS = 256
# Of the prompt, before the server has counted them.
TOKENS_PER_BYTE = 0.3


log = structlog.get_logger("nodes.engine")


class RemoteEngine:
    """Texts of a server's models.

    Args:
        server: Where they run.
        models: The server's name of each arm's model, by key of the arm.
        concurrency: Requests at once.
        queue_limit: Requests that may wait here; the server has a queue of its own.
        poll_s: How often the server is asked whether it has its models; None for never, where somebody else watches it.
    """

    def __init__(
        self,
        server: Server,
        models: Mapping[str, str],
        *,
        concurrency: int,
        queue_limit: int,
        poll_s: float | None = None,
    ) -> None:
        self.events = EngineEvents()
        self.state = EngineState.STARTING
        self.restarts = 0
        self._server = server
        self._models = dict(models)
        self._able: dict[str, tuple[str, ...]] = {}
        self._slots = Slots(concurrency, queue_limit)
        self._poll_s = poll_s
        self._polling: asyncio.Task[None] | None = None
        self._away: frozenset[str] = frozenset()

    @property
    def running(self) -> int:
        """See `Engine`."""
        return self._slots.taken

    @property
    def queued(self) -> int:
        """See `Engine`."""
        return self._slots.queued

    async def load(self, arms: Sequence[ArmSpec]) -> None:
        """See `Engine`: asks the server whether it has the models."""
        self._server.open()
        there = await self._server.models()
        missing = [self._models[arm.key] for arm in arms if self._models[arm.key] not in there]
        if missing:
            raise EngineError(f"the server has no model {', '.join(missing)}; it has {', '.join(there) or 'none'}")
        self._able = {arm.key: arm.text.capabilities for arm in arms if arm.text is not None}
        self.state = EngineState.READY
        if self._poll_s is not None:
            self._polling = asyncio.create_task(self._poll(self._poll_s))

    async def _poll(self, poll_s: float) -> None:
        """Take arms off while the server is away or has lost their model, and offer them again when it is back."""
        failures = 0
        while True:
            await asyncio.sleep(poll_s)
            try:
                async with asyncio.timeout(POLL_TIMEOUT_S):
                    there = await self._server.models()
                failures = 0
            except EngineBusy:
                continue  # Busy is alive.
            except (EngineError, TimeoutError) as error:
                failures += 1
                if failures < AWAY_AFTER:
                    continue
                there, why = (), str(error) or "it does not answer"
                if len(self._away) < len(self._models):
                    log.warning("server away", url=self._server.address.url, why=why)
            self._note(frozenset(key for key, model in self._models.items() if model not in there))

    def _note(self, away: frozenset[str]) -> None:
        lost, back = sorted(away - self._away), sorted(self._away - away)
        self._away = away
        self.state = EngineState.RESTARTING if len(away) == len(self._models) else EngineState.READY
        if lost:
            log.warning("models away", arms=lost)
            self.events.on_arms_lost(lost)
        if back:
            log.info("models back", arms=back)
            self.events.on_arms_back(back)

    async def infer(self, job: Job) -> JobResult:
        """Refused: this engine writes texts."""
        raise EngineError(f"{job.arm} takes text, not tensors")

    async def generate(self, job: TextJob) -> AsyncGenerator[TextPiece | TextEnd]:
        """See `Engine`."""
        if self.state is EngineState.CLOSED:
            raise EngineDied("the engine is closed")
        queued_s = time.monotonic()
        await self._slots.take()
        try:
            if job.start_by_s is not None and time.monotonic() >= job.start_by_s:
                raise DeadlinePassed("the deadline passed while the text waited")
            job.on_start()
            queue_ms = (time.monotonic() - queued_s) * 1e3
            if job.whole and not job.embed:
                for piece in await self._whole(job, queue_ms):
                    yield piece
                return
            async with aclosing((self._embed if job.embed else self._answer)(job, queue_ms)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self._slots.give_back()

    def _asked(self, job: TextJob) -> tuple[Reading, dict[str, Any]]:
        """What will be made of the answer, and what the server is asked."""
        wanted = job.max_tokens or DEFAULT_TOKENS
        size = sum(len(content.encode()) for _, content in job.messages)
        reading = Reading(size, min(wanted, affordable_tokens(job, size)), wanted)
        able = self._able.get(job.arm, ())
        body = request_body(job, self._models[job.arm], tokens=reading.asked_tokens, logprobs="logprobs" in able)
        if job.scope and "cache_salt" in able:
            body["cache_salt"] = job.scope
        return reading, body

    async def _whole(self, job: TextJob, queue_ms: float) -> list[TextPiece | TextEnd]:
        """A text that nobody reads before its end: no stream is asked for."""
        started_s = time.monotonic()
        reading, body = self._asked(job)
        piece = _piece(job, reading, await self._server.whole_chat(body))
        compute_ms = (time.monotonic() - started_s) * 1e3
        end = reading.end(queue_ms=queue_ms, compute_ms=compute_ms, first_token_ms=None)
        return [end] if piece is None else [piece, end]

    async def _answer(self, job: TextJob, queue_ms: float) -> AsyncGenerator[TextPiece | TextEnd]:
        started_s = time.monotonic()
        first_token_ms = None
        reading, body = self._asked(job)
        async with aclosing(self._server.chat(body)) as events:
            async for event in events:
                piece = _piece(job, reading, event)
                if piece is not None:
                    if first_token_ms is None:
                        first_token_ms = (time.monotonic() - started_s) * 1e3
                    yield piece
        compute_ms = (time.monotonic() - started_s) * 1e3
        yield reading.end(queue_ms=queue_ms, compute_ms=compute_ms, first_token_ms=first_token_ms)

    async def _embed(self, job: TextJob, queue_ms: float) -> AsyncGenerator[TextPiece | TextEnd]:
        started_s = time.monotonic()
        texts = [content for _, content in job.messages]
        document = await self._server.embed({"model": self._models[job.arm], "input": texts})
        vectors, tokens = told_vectors(document, len(texts))
        yield TextPiece(json.dumps(vectors))
        yield TextEnd("stop", tokens, 0, queue_ms, (time.monotonic() - started_s) * 1e3)

    async def close(self) -> None:
        """See `Engine`."""
        self.state = EngineState.CLOSED
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.gather(self._polling, return_exceptions=True)
        self._slots.refuse_waiting("the engine is closed")
        await self._server.close()


def _piece(job: TextJob, reading: Reading, event: dict[str, Any]) -> TextPiece | None:
    """What an event adds to the text; None where it adds nothing."""
    text = reading.take(event)
    logprobs = () if job.top_logprobs is None else told_logprobs(event, job.top_logprobs)
    return TextPiece(text, logprobs=logprobs) if text or logprobs else None


def affordable_tokens(job: TextJob, prompt_bytes: int) -> int:
    """Tokens that an answer may have within its joules; as many as one likes where nobody knows what they cost."""
    cost, limit_j = job.cost, job.energy_limit_j
    if cost is None or limit_j <= 0.0 or cost.decode_j_per_token <= 0.0:
        return 2**31
    left_j = limit_j - cost.overhead_j - prompt_bytes * TOKENS_PER_BYTE * cost.prefill_j_per_token
    return max(1, int(left_j / cost.decode_j_per_token))


def request_body(job: TextJob, model: str, *, tokens: int, logprobs: bool) -> dict[str, Any]:
    """A job as OpenAI's API has it."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [_message(job, n) for n in range(len(job.messages))],
        "max_tokens": tokens,
    }
    if not job.whole:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    for name in ("temperature", "top_p", "seed"):
        if (value := getattr(job, name)) is not None:
            body[name] = value
    if job.stop:
        body["stop"] = list(job.stop)
    if logprobs:
        # Two are needed for the margin.
        body |= {"logprobs": True, "top_logprobs": max(2, job.top_logprobs or 0)}
    for name in ("tools", "tool_choice", "response_format"):
        if text := getattr(job, f"{name}_json"):
            body[name] = json.loads(text)
    return body


def _message(job: TextJob, n: int) -> dict[str, Any]:
    role, content = job.messages[n]
    extra = json.loads(job.extras[n]) if job.extras and job.extras[n] else {}
    return {"role": role, "content": content, **extra}
