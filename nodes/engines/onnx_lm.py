"""Small language models on ONNX Runtime in a child process of their own, many texts at once. Text only."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from nodes.arms import ArmSpec, TextCost
from nodes.engines.child import Limits, LoadOrder, Supervisor
from nodes.engines.contract import EngineEvents, EngineState, Job, JobResult, TextEnd, TextJob, TextPiece
from nodes.engines.process import WorkerCommand
from nodes.errors import EngineError, InputInvalid
from nodes.worker.frames import Frame

SERVE = "nodes.worker.text.main"


class OnnxTextEngine:
    """Writes texts with `.onnx` decoders and mixtures of them, on one thread, `command.slots` texts at once.

    The experts that ship answer single questions: they read the last message of the user and nothing else.

    Args:
        command: Interpreter of the child process, and how many texts share its steps.
        limits: Queue bound, time-outs and crash policy.
    """

    def __init__(self, command: WorkerCommand, limits: Limits | None = None) -> None:
        self.events = EngineEvents()
        self._child = Supervisor(command, limits or Limits(), on_arms_lost=self._tell_lost)

    def _tell_lost(self, arms: Sequence[str]) -> None:
        self.events.on_arms_lost(arms)

    @property
    def state(self) -> EngineState:
        """See `Engine`."""
        return self._child.state

    @property
    def restarts(self) -> int:
        """See `Engine`."""
        return self._child.restarts

    @property
    def running(self) -> int:
        """See `Engine`."""
        return self._child.running

    @property
    def queued(self) -> int:
        """See `Engine`."""
        return self._child.queued

    @property
    def pid(self) -> int | None:
        """Process id of the child, None while there is none."""
        return self._child.pid

    async def load(self, arms: Sequence[ArmSpec]) -> None:
        """See `Engine`."""
        await self._child.start([_load_order(arm) for arm in arms])

    async def infer(self, job: Job) -> JobResult:
        """Refused: this engine writes texts."""
        raise EngineError(f"{job.arm} takes text, not tensors")

    async def generate(self, job: TextJob) -> AsyncGenerator[TextPiece | TextEnd]:
        """See `Engine`. A text without a temperature is greedy; one without a seed gets a random one."""
        async with aclosing(self._child.stream(job, text_order(job))) as frames:
            async for frame, queue_ms in frames:
                try:
                    yield _piece(frame) if frame.op == "piece" else _end(frame, queue_ms)
                except (KeyError, TypeError, ValueError) as error:
                    raise EngineError("The engine's answer cannot be read") from error

    async def close(self) -> None:
        """See `Engine`."""
        await self._child.close()


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
        "allowance": _allowance(job.energy_limit_j, job.cost),
    }


def _allowance(limit_j: float, cost: TextCost | None) -> tuple[float, ...]:
    if limit_j <= 0.0 or cost is None:
        return (0.0, 0.0, 0.0, 0.0)
    return limit_j, cost.overhead_j, cost.prefill_j_per_token, cost.decode_j_per_token


def _load_order(arm: ArmSpec) -> LoadOrder:
    if arm.model_file is None:
        raise EngineError(f"{arm.key} names no model file")
    return LoadOrder(arm.key, str(arm.model_file), arm.model_digest)


def _piece(frame: Frame) -> TextPiece:
    return TextPiece(str(frame.header["text"]), tuple(map(int, frame.header["token_ids"])))


def _end(frame: Frame, queue_ms: float) -> TextEnd:
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
    )
