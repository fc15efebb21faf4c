"""Small language models on ONNX Runtime in a child process of their own, many texts at once. Text only."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.arms import TextCost
from nodes.engines.child import Limits, LoadOrder
from nodes.engines.contract import Job, JobResult, TextEnd, TextJob, TextPiece
from nodes.engines.hosted import HostedEngine
from nodes.engines.process import WorkerCommand
from nodes.errors import EngineError, InputInvalid
from nodes.worker.frames import Frame

SERVE = "nodes.worker.text.main"


class OnnxTextEngine(HostedEngine):
    """Writes texts with `.onnx` decoders and mixtures of them, on one thread, `command.slots` texts at once.

    The experts that ship answer single questions: they read the last message of the user and nothing else.

    Args:
        command: Interpreter of the child process, and how many texts share its steps.
        limits: Queue bound, time-outs and crash policy.
        keep_bytes: What kept prompts may take, see `nodes.worker.text.shelf`; 0 keeps none.
    """

    def __init__(self, command: WorkerCommand, limits: Limits | None = None, *, keep_bytes: int = 0) -> None:
        super().__init__(command, limits)
        self._keep_bytes = keep_bytes

    async def attach(self, arm: str, model: bytes) -> None:
        """Load one more decoder from memory, under a key that no gateway asks for.

        Raises:
            EngineError: if it does not load.
        """
        await self._child.attach(LoadOrder(arm, "", hashlib.sha256(model).hexdigest(), model))

    def detach(self, arm: str) -> None:
        """Forget a decoder that was attached; one that is not there is no error."""
        self._child.detach(arm)

    async def infer(self, job: Job) -> JobResult:
        """Refused: this engine writes texts."""
        raise EngineError(f"{job.arm} takes text, not tensors")

    async def generate(self, job: TextJob) -> AsyncGenerator[TextPiece | TextEnd]:
        """See `Engine`. A text without a temperature is greedy; one without a seed gets a random one."""
        if job.turns is not None:
            order = {**text_order(job), "shared": True, "quiet": job.whole}
            async with aclosing(self._child.share(job, order)) as parts:
                async for frame in parts:
                    yield _read(frame, 0.0, keeps=False)
            return
        if job.embed:
            async with aclosing(self._child.stream(job, {}, _texts(job))) as frames:
                async for frame, queue_ms in frames:
                    if frame.op != "piece":
                        yield _read(frame, queue_ms, keeps=False)
                    elif (vectors := frame.tensors().get("vectors")) is not None:
                        yield _vectors(vectors)
            return
        kept = {"scope": job.scope, "keep_bytes": self._keep_bytes} if self._keep_bytes else {}
        async with aclosing(self._child.stream(job, text_order(job) | kept)) as frames:
            async for frame, queue_ms in frames:
                yield _read(frame, queue_ms, keeps=bool(kept))


def text_order(job: TextJob) -> dict[str, Any]:
    """A job as the process reads it.

    Raises:
        InputInvalid: if no message is the user's.
    """
    questions = [content for role, content in job.messages if role == "user"]
    if not questions:
        raise InputInvalid("a text request needs a message of the user")
    return {
        "question": questions[-1],
        "max_tokens": job.max_tokens,
        "min_tokens": job.min_tokens,
        "temperature": job.temperature or 0.0,
        "top_p": 1.0 if job.top_p is None else job.top_p,
        "seed": secrets.randbits(63) if job.seed is None else job.seed,
        "stop": list(job.stop),
        "top_logprobs": job.top_logprobs,
        "allowance": _allowance(job.energy_limit_j, job.cost),
    }


def _texts(job: TextJob) -> dict[str, NDArray[np.uint8]]:
    """The texts of which vectors are wanted; they may be too long for a frame's header."""
    texts = json.dumps([content for _, content in job.messages])
    return {"texts": np.frombuffer(texts.encode(), np.uint8)}


def _vectors(vectors: NDArray[np.floating]) -> TextPiece:
    return TextPiece(json.dumps([base64.b64encode(one.astype("<f4").tobytes()).decode() for one in vectors]))


def _allowance(limit_j: float, cost: TextCost | None) -> tuple[float, ...]:
    if limit_j <= 0.0 or cost is None:
        return (0.0, 0.0, 0.0, 0.0)
    return limit_j, cost.overhead_j, cost.prefill_j_per_token, cost.decode_j_per_token


def _read(frame: Frame, queue_ms: float, *, keeps: bool) -> TextPiece | TextEnd:
    try:
        return _piece(frame) if frame.op == "piece" else _end(frame, queue_ms, keeps=keeps)
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError("The engine's answer cannot be read") from error


def _piece(frame: Frame) -> TextPiece:
    header, tensors = frame.header, frame.tensors()
    return TextPiece(
        str(header["text"]),
        tuple(map(int, header["token_ids"])),
        tuple(header["logprobs"]),
        tuple(map(int, header.get("top_ids", ()))),
        tensors.get("probabilities"),
        bool(header.get("ended", False)),
        tuple(string.encode("latin-1") for string in header.get("strings", ())),
        tensors.get("next_bytes"),
        int(header.get("read_tokens", 0)),
    )


def _end(frame: Frame, queue_ms: float, *, keeps: bool) -> TextEnd:
    header: Mapping[str, Any] = frame.header
    return TextEnd(
        finish=str(header["finish"]),
        prompt_tokens=int(header["prompt_tokens"]),
        completion_tokens=int(header["completion_tokens"]),
        queue_ms=queue_ms,
        compute_ms=float(header["compute_ms"]),
        macs=int(header["macs"]),
        margin_fraction=header["margin_fraction"],
        first_token_ms=header["first_token_ms"],
        cached_tokens=int(header["cached_tokens"]) if keeps else None,
    )
