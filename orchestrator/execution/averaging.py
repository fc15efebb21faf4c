"""Texts for which all experts tell at every step what may come next, and the average of that says what does.

Greedy texts of one vocabulary take the most probable token: few probabilities of each are enough nearly always.
Whether they are is known: what an expert did not tell is at most as probable as the least that it told, or as what is
left of 1. Where that leaves it open, all tell everything, without computing again; so the token is the one that
averaging whole distributions gives, up to the half precision in which they travel. Texts of several vocabularies are
averaged byte by byte (`orchestrator.execution.bytewise`).

Shape letter: v vocabulary.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgewise.v1 import fleet_pb2
from orchestrator.execution.attempt import AttemptFailed, Attempts, Trial
from orchestrator.execution.bytewise import Choose, next_piece, tells_bytes
from orchestrator.execution.together import Ensemble, Member
from orchestrator.types import Delta, Done

TOPS = 32
# What half precision may take from the sum of probabilities.
ROUNDING = 2.0**-10
# Of what a node says in one turn: its text may come before what it tells, and a little more is forgiven.
MOST_PIECES = 4

Start = Callable[[Ensemble, Member, fleet_pb2.Turn], Trial]
Lose = Callable[[Ensemble, Member, AttemptFailed], None]
Recount = Callable[[Ensemble], None]


class Way(Protocol):
    """How the next step of a text comes of what all told.

    Attributes:
        first: What every expert is asked at every step.
        more: What it is asked where that leaves the step open.
    """

    first: fleet_pb2.Turn
    more: fleet_pb2.Turn

    def hand(self, text: Ensemble, known: int, turn: fleet_pb2.Turn) -> None:
        """Put into a turn what was written behind the steps that its expert knows."""
        ...

    def choose(self, text: Ensemble, told: Sequence[Delta], weights: Sequence[float]) -> bool:
        """Write the next step; false where it is open. Once all told what was asked as `more` it never is."""
        ...


class TokenWay:
    """Greedy, in one vocabulary.

    Args:
        tops: How many of its most probable tokens each tells at first; None for all.
    """

    def __init__(self, tops: int | None) -> None:
        self.more = fleet_pb2.Turn(dense=True)
        self.first = fleet_pb2.Turn(dense=True) if tops is None else fleet_pb2.Turn(tops=tops)

    def hand(self, text: Ensemble, known: int, turn: fleet_pb2.Turn) -> None:
        """See `Way`."""
        turn.token_ids.extend(text.tokens[known:])

    def choose(self, text: Ensemble, told: Sequence[Delta], weights: Sequence[float]) -> bool:
        """See `Way`."""
        token = most_probable(told, weights)
        if token is not None:
            text.tokens.append(token)
        return token is not None


class ByteWay:
    """In several vocabularies, greedy or drawn.

    Args:
        tops: How many strings each tells.
        choose: Takes a symbol from probabilities.
    """

    def __init__(self, tops: int, choose: Choose) -> None:
        # What is told of the next byte is whole, so that nothing is ever left to ask.
        self.first = self.more = fleet_pb2.Turn(strings=tops)
        self._choose = choose

    def hand(self, text: Ensemble, known: int, turn: fleet_pb2.Turn) -> None:
        """See `Way`."""
        turn.pieces.extend(text.pieces[known:])

    def choose(self, text: Ensemble, told: Sequence[Delta], weights: Sequence[float]) -> bool:
        """See `Way`."""
        place = sum(map(len, text.pieces))
        text.pieces.append(next_piece(told, weights, place, self._choose))
        return True


class Averaging:
    """Writes such texts.

    Args:
        attempts: Waits for nodes.
        way: How their next step is chosen.
        start: Gives a member its turn.
        lose: Goes on without a member, or raises.
        recount: Finds anew how long the text may become, where a step took more than one token's.
    """

    def __init__(self, attempts: Attempts, way: Way, *, start: Start, lose: Lose, recount: Recount) -> None:
        self._attempts, self._way = attempts, way
        self._start, self._lose, self._recount = start, lose, recount

    async def write(self, text: Ensemble) -> AsyncIterator[Delta]:
        """Pieces of the text; the last one has ended.

        Raises:
            AttemptFailed: An expert was lost and the others may not go on.
            TimeoutError: Time ran out.
        """
        turn = self._way.first
        while True:
            told = await self._round(text, turn)
            place, first = next(iter(told.items()))
            said, ended = first.text, any(one.ended for one in told.values())
            if ended and not first.ended:
                said += await self._rest(text, text.members[place])
            if said or ended:
                yield Delta(0, said, (), ended=ended)
            if ended:
                return
            settled = self._way.choose(text, list(told.values()), self._weights(text, told))
            turn = self._way.first if settled else self._way.more

    def _weights(self, text: Ensemble, told: Iterable[int]) -> list[float]:
        return [float(text.schedule.weights[place]) for place in told]

    async def _round(self, text: Ensemble, turn: fleet_pb2.Turn) -> dict[int, Delta]:
        """What every member says, by its place in the route; of those that are not lost in it."""
        own = fleet_pb2.Turn(tell_text=True, last=text.steps >= text.cap)
        own.MergeFrom(turn)
        asked = {text.members.index(member): self._ask(text, member, own) for member in text.present}
        found = await asyncio.gather(*asked.values(), return_exceptions=True)
        told: dict[int, Delta] = {}
        for place, one in zip(asked, found, strict=True):
            if isinstance(one, AttemptFailed):
                self._lose(text, text.members[place], one)
            elif isinstance(one, BaseException):
                raise one
            else:
                told[place] = one
        self._lose_strangers(text, told)
        if any(one.read_tokens > 1 for one in told.values()):
            self._recount(text)
        return told

    def _lose_strangers(self, text: Ensemble, told: dict[int, Delta]) -> None:
        """Go on without members whose whole distributions are of another length than those of most, by weight: what
        they call the text's vocabulary is another one."""
        sizes = {place: size for place, one in told.items() if (size := _size(one))}
        if len(set(sizes.values())) < 2:
            return
        shares: dict[int, float] = {}
        for size, weight in zip(sizes.values(), self._weights(text, sizes), strict=True):
            shares[size] = shares.get(size, 0.0) + weight
        agreed = max(shares, key=lambda size: shares[size])
        for place, size in sizes.items():
            if size != agreed and (trial := text.members[place].trial) is not None:
                del told[place]
                self._lose(text, text.members[place], trial.ended())

    async def _ask(self, text: Ensemble, member: Member, turn: fleet_pb2.Turn) -> Delta:
        """What a member says in its turn, with all of its text; the end of the text where it says no more.

        Raises:
            AttemptFailed: It is lost, goes on behind the end, or does not tell what it was asked.
        """
        own = fleet_pb2.Turn()
        own.CopyFrom(turn)
        self._way.hand(text, max(0, member.known), own)
        trial = self._start(text, member, own)
        patience_s = self._attempts.patience_s(trial)
        member.known = text.steps
        said: list[str] = []
        while (delta := await self._attempts.written(trial, patience_s=patience_s)) is not None:
            said.append(delta.text)
            if delta.ended or _tells(own, delta):
                member.read(delta.read_tokens)
                return replace(delta, text="".join(said))
            if delta.top_probabilities is not None or len(said) == MOST_PIECES:
                raise trial.ended()
        result = trial.result()
        if not isinstance(result.result() if result.exception() is None else None, Done):
            raise trial.ended()
        return Delta(0, "".join(said), (), ended=True)

    async def _rest(self, text: Ensemble, member: Member) -> str:
        """What a member has held back of a text that another one has ended."""
        try:
            return (await self._ask(text, member, fleet_pb2.Turn(last=True, tell_text=True))).text
        except AttemptFailed:
            # Half a letter is not worth an error; why it is gone the farewell finds.
            return ""


def _tells(turn: fleet_pb2.Turn, delta: Delta) -> bool:
    """Whether an expert told what it was asked for, no more than that, and anything at all; where the text ends with
    the turn there is nothing to tell."""
    if turn.last or b"" in turn.pieces:
        return False
    if turn.strings:
        return len(delta.strings) <= turn.strings and tells_bytes(delta)
    fits = not delta.top_ids if turn.dense else 0 < len(delta.top_ids) <= turn.tops
    return fits and delta.top_probabilities is not None and not delta.strings


def _size(one: Delta) -> int:
    """Entries of a whole distribution; 0 where something else was told."""
    return 0 if one.top_ids or one.strings or one.top_probabilities is None else len(one.top_probabilities)


def most_probable(told: Sequence[Delta], weights: Sequence[float]) -> int | None:
    """The most probable token of the weighted average; None where what was told leaves it open.

    Args:
        told: By expert; whole distributions (v), or the most probable tokens and theirs.
        weights: By expert.
    """
    if all(not one.top_ids for one in told):
        averaged_v = sum(weight * _known(one) for one, weight in zip(told, weights, strict=True))
        return int(np.argmax(averaged_v))
    least = [weight * _most_untold(one) for one, weight in zip(told, weights, strict=True)]
    sums: dict[int, float] = {}
    untold: dict[int, float] = {}
    for one, weight, rest in zip(told, weights, least, strict=True):
        for token, probability in zip(one.top_ids or range(len(_known(one))), _known(one), strict=True):
            sums[token] = sums.get(token, 0.0) + weight * float(probability)
            untold[token] = untold.get(token, 0.0) + rest
    best = min(sums, key=lambda token: (-sums[token], token))
    everything = sum(least)
    others = max((sums[token] + everything - untold[token] for token in sums if token != best), default=0.0)
    return best if sums[best] >= max(others, everything) else None


def _most_untold(one: Delta) -> float:
    """How probable a token that an expert did not tell can be: no more than the least that it told, nor than what is
    left of 1."""
    if not one.top_ids:
        return 0.0
    known = _known(one)
    return min(float(known.min()), max(0.0, 1.0 - float(known.sum())) + ROUNDING)


def _known(one: Delta) -> NDArray[np.float64]:
    if one.top_probabilities is None:
        raise ValueError("an expert told nothing")
    return one.top_probabilities
