"""Greedy texts of several experts: at every token all tell their most probable ones, and the most probable of the
average is taken.

Few probabilities of each are enough nearly always. Whether they are is known: what an expert did not tell is at most as
probable as the least that it told, or as what is left of 1. Where that leaves it open, all tell everything, without
computing again; so the token is the one that averaging whole distributions gives, up to the half precision in which
they travel.

Shape letter: v vocabulary.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgewise.v1 import fleet_pb2
from orchestrator.execution.attempt import AttemptFailed, Attempts, Trial
from orchestrator.types import Delta, Done

if TYPE_CHECKING:
    from orchestrator.execution.ensemble import Ensemble, Member

TOPS = 32
# What half precision may take from the sum of probabilities.
ROUNDING = 2.0**-10

Start = Callable[["Ensemble", "Member", fleet_pb2.Turn], Trial]
Lose = Callable[["Ensemble", "Member", AttemptFailed], None]


@dataclass(frozen=True)
class Told:
    """What one expert said in a round: the text of the newest token, and of the next one the probabilities, the most
    probable first where `ids` names them; `ended` where the newest was the last."""

    text: str
    ended: bool
    ids: tuple[int, ...] = ()
    probabilities: NDArray[np.float64] | None = None


class Averaging:
    """Writes such texts.

    Args:
        attempts: Waits for nodes.
        start: Gives a member its turn.
        lose: Goes on without a member, or raises.
        tops: How many of its most probable tokens each tells at first; None for all.
    """

    def __init__(self, attempts: Attempts, start: Start, lose: Lose, *, tops: int | None) -> None:
        self._attempts, self._start, self._lose = attempts, start, lose
        self._first = fleet_pb2.Turn(dense=True) if tops is None else fleet_pb2.Turn(tops=tops)
        self._first.tell_text = True

    async def write(self, text: Ensemble) -> AsyncIterator[Delta]:
        """Pieces of the text; the last one has ended.

        Raises:
            AttemptFailed: An expert was lost and the others may not go on.
            TimeoutError: Time ran out.
        """
        while True:
            told = await self._round(text, self._first)
            first = next(iter(told.values()))
            if first.text or first.ended:
                yield Delta(0, first.text, (), ended=first.ended)
            if first.ended:
                return
            chosen = most_probable(list(told.values()), self._weights(text, told))
            if chosen is None:
                told = await self._round(text, fleet_pb2.Turn(dense=True))
                chosen = most_probable(list(told.values()), self._weights(text, told))
            # Of whole distributions one is always the most probable.
            text.tokens.append(chosen or 0)

    def _weights(self, text: Ensemble, told: dict[int, Told]) -> list[float]:
        return [float(text.schedule.weights[place]) for place in told]

    async def _round(self, text: Ensemble, turn: fleet_pb2.Turn) -> dict[int, Told]:
        """What every member says, by its place in the route; of those that are not lost in it."""
        asked = {text.members.index(member): self._ask(text, member, turn) for member in text.present}
        found = await asyncio.gather(*asked.values(), return_exceptions=True)
        told: dict[int, Told] = {}
        for place, one in zip(asked, found, strict=True):
            if isinstance(one, AttemptFailed):
                self._lose(text, text.members[place], one)
            elif isinstance(one, BaseException):
                raise one
            else:
                told[place] = one
        return told

    async def _ask(self, text: Ensemble, member: Member, turn: fleet_pb2.Turn) -> Told:
        own = fleet_pb2.Turn()
        own.CopyFrom(turn)
        own.token_ids.extend(text.tokens[max(0, member.known) :])
        own.last = len(text.tokens) >= text.cap
        trial = self._start(text, member, own)
        patience_s = self._attempts.patience_s(trial)
        member.known = len(text.tokens)
        said = ""
        while (delta := await self._attempts.written(trial, patience_s=patience_s)) is not None:
            said += delta.text
            if delta.ended:
                return Told(said, ended=True)
            if delta.top_probabilities is not None:
                return Told(said, ended=False, ids=delta.top_ids, probabilities=delta.top_probabilities)
        result = trial.result()
        if not isinstance(result.result() if result.exception() is None else None, Done):
            raise trial.ended()
        return Told(said, ended=True)


def most_probable(told: Sequence[Told], weights: Sequence[float]) -> int | None:
    """The most probable token of the weighted average; None where what was told leaves it open.

    Args:
        told: By expert; whole distributions (v), or the most probable tokens and theirs.
        weights: By expert.
    """
    if all(not one.ids for one in told):
        averaged_v = sum(weight * _known(one) for one, weight in zip(told, weights, strict=True))
        return int(np.argmax(averaged_v))
    least = [weight * _most_untold(one) for one, weight in zip(told, weights, strict=True)]
    sums: dict[int, float] = {}
    untold: dict[int, float] = {}
    for one, weight, rest in zip(told, weights, least, strict=True):
        for token, probability in zip(one.ids or range(len(_known(one))), _known(one), strict=True):
            sums[token] = sums.get(token, 0.0) + weight * float(probability)
            untold[token] = untold.get(token, 0.0) + rest
    best = min(sums, key=lambda token: (-sums[token], token))
    everything = sum(least)
    others = max((sums[token] + everything - untold[token] for token in sums if token != best), default=0.0)
    return best if sums[best] >= max(others, everything) else None


def _most_untold(one: Told) -> float:
    """How probable a token that an expert did not tell can be: no more than the least that it told, nor than what is
    left of 1."""
    if not one.ids:
        return 0.0
    known = _known(one)
    return min(float(known.min()), max(0.0, 1.0 - float(known.sum())) + ROUNDING)


def _known(one: Told) -> NDArray[np.float64]:
    if one.probabilities is None:
        raise ValueError("an expert told nothing")
    return one.probabilities
