"""An expert that writes its turns of a shared text, and does exactly what a test tells it to: its letter, again and
again. Token ids are letters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np

from edgewise.v1 import common_pb2 as common
from edgewise.v1 import fleet_pb2 as fleet
from tests.fakes.turn import Turn

J_PER_TOKEN = 0.01
VOCABULARY = 128


@dataclass
class Voice:
    """One expert; use it as the behaviour of a fake node.

    Args:
        letter: What it writes.
        length: Tokens after which the text ends.
        before: Awaited before every token, with the turn and how many tokens the text has.
        probability: Of its letter; the rest is for "z".
    """

    letter: str
    length: int = 12
    before: Callable[[Turn, int], Awaitable[None]] | None = None
    probability: float = 0.9
    heard: list[int] = field(default_factory=list)
    asked: list[fleet.Turn] = field(default_factory=list)
    computed: int = 0

    async def __call__(self, turn: Turn) -> None:
        self.heard.clear()
        self.asked.clear()
        self.computed = 0
        limit = turn.work.text.parameters.max_tokens
        if not turn.work.text.HasField("shared"):
            turn.done(text=self.letter, usage=common.Usage(prompt_tokens=3, completion_tokens=1))
            return
        while True:
            order = await turn.turns.get()
            self.asked.append(order)
            self.heard += order.token_ids
            text = "".join(map(chr, order.token_ids)) if order.tell_text else ""
            if order.last or len(self.heard) >= min(limit, self.length):
                turn.write(text, ended=True)
                self._end(turn, limit)
                return
            if order.tops or order.dense:
                await self._tell(turn, order, text)
            elif await self._write(turn, order.count, limit):
                self._end(turn, limit)
                return

    async def _write(self, turn: Turn, count: int, limit: int) -> bool:
        for _ in range(count):
            if self.before is not None:
                await self.before(turn, len(self.heard))
            self.computed += 1
            self.heard.append(ord(self.letter))
            ended = len(self.heard) >= min(limit, self.length)
            turn.write(self.letter, ord(self.letter), ended=ended)
            if ended:
                return True
        return False

    async def _tell(self, turn: Turn, order: fleet.Turn, text: str) -> None:
        if self.before is not None:
            await self.before(turn, len(self.heard))
        self.computed += bool(order.tops)
        probability_v = np.zeros(VOCABULARY, np.float16)
        probability_v[[ord(self.letter), ord("z")]] = self.probability, 1.0 - self.probability
        tops = np.argsort(-probability_v, kind="stable")[: order.tops]
        told = probability_v if order.dense else probability_v[tops]
        turn.write(text, top_ids=() if order.dense else tops.tolist(), probabilities=told.astype("<f2").tobytes())

    def _end(self, turn: Turn, limit: int) -> None:
        reason = common.FINISH_REASON_LENGTH if len(self.heard) >= limit else common.FINISH_REASON_STOP
        usage = common.Usage(prompt_tokens=3, completion_tokens=len(self.heard))
        turn.done(finish_reason=reason, usage=usage, energy_j=J_PER_TOKEN * self.computed)


async def never(_turn: Turn, _place: int) -> None:
    """Stalls."""
    await asyncio.Event().wait()
