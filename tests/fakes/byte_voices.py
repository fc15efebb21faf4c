"""An expert that writes a text with experts of other vocabularies, and says what a test tells it to: its own text, in
its own tokens, whatever was written so far."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np

from edgewise.v1 import common_pb2 as common
from edgewise.v1 import fleet_pb2 as fleet
from tests.fakes.turn import Turn
from tests.fakes.voices import J_PER_TOKEN

OTHER = b"z"
J_PER_READ = 0.01


@dataclass
class ByteVoice:
    """One expert; use it as the behaviour of a fake node.

    Args:
        words: What it writes, token by token.
        probability: Of that; the rest is for "z".
        before: Awaited before it tells what comes next, with the turn and how many steps the text has.
        room_bytes: At so many bytes its context is full.
        silent: Whether it tells nothing.
        reads: Tokens that it says it read for every step.
    """

    words: tuple[bytes, ...]
    probability: float = 0.9
    before: Callable[[Turn, int], Awaitable[None]] | None = None
    room_bytes: int = 1 << 20
    silent: bool = False
    reads: int = 1
    asked: list[fleet.Turn] = field(default_factory=list)
    heard: bytes = b""

    async def __call__(self, turn: Turn) -> None:
        self.asked.clear()
        self.heard, steps, computed = b"", 0, 0
        if not turn.work.text.HasField("shared"):
            turn.done(text="alone", usage=common.Usage(prompt_tokens=3, completion_tokens=1))
            return
        decoder, limit = codecs.getincrementaldecoder("utf-8")("replace"), turn.work.text.parameters.max_tokens
        while True:
            order = await turn.turns.get()
            self.asked.append(order)
            self.heard += b"".join(order.pieces)
            steps += len(order.pieces)
            stopped, full = b"" in order.pieces, len(self.heard) >= self.room_bytes or steps >= limit or order.last
            said = decoder.decode(b"".join(order.pieces), final=full) if order.tell_text else ""
            if stopped or full:
                turn.write(said, ended=True)
                reason = common.FINISH_REASON_STOP if stopped else common.FINISH_REASON_LENGTH
                usage = common.Usage(prompt_tokens=3, completion_tokens=steps)
                turn.done(
                    finish_reason=reason, usage=usage, energy_j=computed * (J_PER_TOKEN + J_PER_READ * (self.reads - 1))
                )
                return
            if self.before is not None:
                await self.before(turn, steps)
            computed += 1
            strings = (self._rest(), OTHER)
            told = np.zeros(3) if self.silent else np.array([self.probability, 1.0 - self.probability, 0.0])
            probabilities = told.astype("<f2").tobytes()
            turn.write(said, strings=strings, probabilities=probabilities, read_tokens=self.reads)

    def _rest(self) -> bytes:
        """What its token goes on with behind as many bytes as were written; nothing behind the last."""
        place = 0
        for word in self.words:
            if len(self.heard) < place + len(word):
                return word[len(self.heard) - place :]
            place += len(word)
        return b""


async def never(_turn: Turn, _steps: int) -> None:
    """Stalls."""
    await asyncio.Event().wait()
