"""What fake nodes do with work: answer, fail, stay silent, send garbage, speak."""

from __future__ import annotations

import asyncio

import numpy as np

from edgewise.v1 import common_pb2 as common
from orchestrator.wire import encode_tensor
from tests.fakes.turn import Behaviour, Turn

CLASSES = 10


def probabilities(label: int, confidence: float = 0.97, *, classes: int = CLASSES) -> common.Tensor:
    """An answer: `confidence` for the label, the rest shared by the others."""
    others = (1.0 - confidence) / (classes - 1)
    array = np.full((1, classes), others, dtype=np.float32)
    array[0, label] = confidence
    return encode_tensor("probabilities", array)


def answers(label: int, *, confidence: float = 0.97, delay_s: float = 0.0, energy_j: float | None = None) -> Behaviour:
    """Answer with a label; joules are those that the arm announced, unless told."""

    async def behave(turn: Turn) -> None:
        if delay_s:
            await asyncio.sleep(delay_s)
        turn.done(probabilities(label, confidence), energy_j=energy_j)

    return behave


def sends(*outputs: common.Tensor) -> Behaviour:
    """Finish with these outputs, whatever they are."""

    async def behave(turn: Turn) -> None:
        turn.done(*outputs)

    return behave


def fails(
    reason: str = "ENGINE_ERROR", *, message: str = "", final: bool = False, energy_j: float | None = None
) -> Behaviour:
    """Say that the work cannot be done."""

    async def behave(turn: Turn) -> None:
        turn.failed(reason, message=message, final=final, energy_j=energy_j)

    return behave


def silent() -> Behaviour:
    """Never answer; end only when cancelled."""

    async def behave(_: Turn) -> None:
        await asyncio.Event().wait()

    return behave


def vanishes() -> Behaviour:
    """Break the connection off when work comes, as a killed process does."""
    ending: set[asyncio.Future[None]] = set()

    async def behave(turn: Turn) -> None:
        # Not awaited here: it cancels what runs on the node, this behaviour included.
        ending.add(asyncio.ensure_future(turn.vanish()))

    return behave


def speaks(*pieces: str, gap_s: float = 0.0, then: Behaviour | None = None) -> Behaviour:
    """Stream pieces of text, then finish, or do something else instead of finishing."""

    async def behave(turn: Turn) -> None:
        for number, piece in enumerate(pieces):
            if number and gap_s:
                await asyncio.sleep(gap_s)
            turn.say(piece, number)
        if then is not None:
            await then(turn)
            return
        usage = common.Usage(prompt_tokens=3, completion_tokens=len(pieces))
        turn.done(text="".join(pieces), finish_reason=common.FINISH_REASON_STOP, usage=usage)

    return behave


def by_seed(said: list[str], *, slow: frozenset[int] = frozenset(), broken: frozenset[int] = frozenset()) -> Behaviour:
    """The answer of its number, counted from seed 7; some never come, and some fail."""

    async def behave(turn: Turn) -> None:
        number = turn.work.text.parameters.seed - 7
        if number in broken:
            turn.failed("INPUT_INVALID", final=True)
            return
        if number in slow:
            await asyncio.Event().wait()
        usage = common.Usage(prompt_tokens=3, completion_tokens=2)
        turn.done(text=said[number], finish_reason=common.FINISH_REASON_STOP, usage=usage)

    return behave
