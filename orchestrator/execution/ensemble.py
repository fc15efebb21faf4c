"""One text that experts on several nodes write together, token by token.

Drawing *one* expert per token by weight and the token from that expert alone gives exactly the distribution of the
weighted average (arXiv 2605.00419). So only the expert whose turn it is computes, only token ids travel, and since the
draw does not depend on the text, runs of one expert are ordered at once. Whoever was passed over is told what it missed
when its turn comes. A greedy text needs the average itself, and so does one of several vocabularies: there all experts
tell at every step what is most probable, which is averaged here (`orchestrator.execution.averaging`).
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import replace

from edgewise.v1 import fleet_pb2
from optimizer.routes.route import Fusion
from orchestrator.errors import RequestError, Unavailable
from orchestrator.execution.attempt import Ask, AttemptFailed, Attempts, Trial
from orchestrator.execution.averaging import TOPS, Averaging, ByteWay, TokenWay
from orchestrator.execution.bytewise import Draws, likeliest
from orchestrator.execution.course import Course, TextEnd, fill, text_end
from orchestrator.execution.schedule import Schedule
from orchestrator.execution.together import Ensemble, Member, affordable, recount
from orchestrator.fleet.session import SessionEnded
from orchestrator.routing.binding import BoundRoute
from orchestrator.types import Delta, Done, Energy, Provenance

# Tokens of one turn: what is written in it cannot be stopped from here.
MOST_AT_ONCE = 32
# How long the other nodes may take to tell their joules once the text has ended.
FAREWELL_S = 1.0


class Ensembles:
    """Writes such texts.

    Args:
        attempts: Sends work to nodes.
        tops: How many of their most probable tokens experts tell where the average is needed; None for all.
        min_tokens: Tokens before which no text ends by itself, for measurements.
    """

    def __init__(self, attempts: Attempts, *, tops: int | None = TOPS, min_tokens: int = 0) -> None:
        self._attempts = attempts
        self._tops = tops
        self._min_tokens = min_tokens

    async def write(self, course: Course, bound: BoundRoute) -> AsyncIterator[Delta | TextEnd]:
        """Pieces of the text as they are written, then its end with every node's joules in the attempts.

        Raises:
            AttemptFailed: An expert was lost and nothing of the text has left yet.
            Unavailable: EXPERT_LOST, in the middle of the text.
            RequestError: CAPABILITY_MISSING, for log probabilities of a greedy text.
            TimeoutError: Time ran out.
        """
        text = self._begin(course, bound)
        started_s = time.monotonic()
        said: list[Delta] = []
        first_token_ms: float | None = None
        try:
            async for delta in self._pieces(text):
                if first_token_ms is None:
                    first_token_ms = (time.monotonic() - started_s) * 1000.0
                said.append(delta)
                if not course.query.whole:
                    course.delivered = True
                    yield delta
            done = await self._farewell(text)
        except AttemptFailed as failure:
            if course.delivered:
                raise _lost(failure.record.reason) from None
            raise
        finally:
            course.progress.infer_s += time.monotonic() - started_s
            self._close(text)
        done = replace(
            done,
            text="".join(delta.text for delta in said),
            logprobs_json=_joined([delta.logprobs_json for delta in said]),
            completion_tokens=text.steps,
            first_token_ms=first_token_ms,
        )
        if course.query.whole and done.text:
            yield Delta(done.work_id, done.text, (), done.logprobs_json)
        yield text_end(done, "+".join(bound.route.experts), asked_tokens=text.cap, query=course.query)

    def _begin(self, course: Course, bound: BoundRoute) -> Ensemble:
        parameters = course.query.parameters
        seed = secrets.randbits(63) if parameters.seed is None else parameters.seed
        query = replace(course.query, parameters=replace(parameters, seed=seed))
        members = [Member(index) for index in bound.arms[0]]
        schedule = Schedule(bound.route.weights or [1.0] * len(members), seed)
        begun = Ensemble(course, query, members, schedule, bytewise=bound.route.fusion is Fusion.BYTES)
        if begun.everyone and parameters.top_logprobs is not None:
            text = "A greedy text on several nodes tells no log probabilities, nor does one of several vocabularies; "
            raise RequestError("CAPABILITY_MISSING", text + "ask without them.", field="logprobs")
        begun.cap = affordable(begun)
        return begun

    def _pieces(self, text: Ensemble) -> AsyncIterator[Delta]:
        if not text.everyone:
            return self._in_turns(text)
        way = self._bytes_of(text) if text.bytewise else TokenWay(self._tops)
        averaging = Averaging(self._attempts, way, start=self._start, lose=self._lose, recount=recount)
        return averaging.write(text)

    def _bytes_of(self, text: Ensemble) -> ByteWay:
        parameters = text.query.parameters
        if not parameters.temperature:
            return ByteWay(self._tops or TOPS, likeliest)
        draws = Draws(parameters.seed or 0, 1.0 if parameters.top_p is None else parameters.top_p)
        return ByteWay(self._tops or TOPS, draws.choose)

    async def _in_turns(self, text: Ensemble) -> AsyncIterator[Delta]:
        while len(text.tokens) < text.cap:
            expert, count = text.schedule.run(len(text.tokens), min(MOST_AT_ONCE, text.cap - len(text.tokens)))
            member = text.members[expert]
            try:
                async for delta in self._take_turn(text, member, count):
                    text.tokens += delta.token_ids
                    member.ended = delta.ended
                    if delta.text or delta.logprobs_json:
                        yield delta
                    if delta.ended:
                        return
            except AttemptFailed as failure:
                self._lose(text, member, failure)
        async for delta in self._cut(text):
            yield delta

    async def _cut(self, text: Ensemble) -> AsyncIterator[Delta]:
        """End a text whose cap fell while it was written; what its last writer has held back."""
        for member in text.present:
            if member.trial is not None and member.known == len(text.tokens):
                try:
                    member.trial.turn(fleet_pb2.Turn(last=True, tell_text=True))
                    patience_s = self._attempts.patience_s(member.trial)
                    delta = await self._attempts.written(member.trial, patience_s=patience_s)
                except AttemptFailed:
                    # Half a letter is not worth an error; why it is gone the farewell finds.
                    return
                if delta is not None and delta.text:
                    yield delta
                return

    async def _take_turn(self, text: Ensemble, member: Member, count: int) -> AsyncIterator[Delta]:
        """What a member writes in its turn.

        Raises:
            AttemptFailed: It is lost.
        """
        turn = fleet_pb2.Turn(token_ids=text.tokens[max(0, member.known) :], count=count)
        until = len(text.tokens) + count
        trial = self._start(text, member, turn)
        patience_s = self._attempts.patience_s(trial)
        while len(text.tokens) < until:
            delta = await self._attempts.written(trial, patience_s=patience_s)
            if delta is None or not 0 < len(delta.token_ids) <= until - len(text.tokens):
                raise trial.ended()
            yield delta
            member.known = len(text.tokens)

    def _start(self, text: Ensemble, member: Member, turn: fleet_pb2.Turn) -> Trial:
        """Give a member its turn, the first along with what is asked."""
        if member.trial is not None:
            member.trial.turn(turn)
            return member.trial
        query, course = text.query, text.course

        def put(work: fleet_pb2.Work) -> None:
            fill(query, text.cap, "", work)
            work.text.shared.first.CopyFrom(turn)
            work.text.shared.min_tokens = self._min_tokens

        member.trial = self._attempts.start_text(
            Ask(
                index=member.index,
                stage=0,
                request_id=query.request_id,
                fill=put,
                deadline_s=course.deadline_s,
                # Counted here, turn by turn.
                energy_limit_j=0.0,
                spare=lambda: not course.delivered or (query.continue_on_loss and len(text.present) > 1),
                given_up=course.progress.attempts.append,
                cost=course.figures.cost_n[member.index],
                learns=False,
            )
        )
        course.progress.voices += 1
        return member.trial

    # ---- losing a member

    def _lose(self, text: Ensemble, member: Member, failure: AttemptFailed) -> None:
        """Go on without a member where the request allows that and anybody is left.

        Raises:
            AttemptFailed: It does not, or nobody is.
        """
        progress = text.course.progress
        member.lost = True
        progress.attempts.append(failure.record)
        progress.avoid = progress.avoid | {member.index}
        if member.trial is not None:
            member.trial.close()
        if not text.query.continue_on_loss or not text.schedule.lose(text.members.index(member)):
            raise failure
        recount(text)

    # ---- the end

    async def _farewell(self, text: Ensemble) -> Done:
        """Every node's last word, which holds its joules; the end of the text as the one said that ended it."""
        course = text.course
        begun = [(member, member.trial) for member in text.present if member.trial is not None]
        for member, trial in begun:
            if not (member.ended or trial.result().done()):
                try:
                    trial.turn(fleet_pb2.Turn(last=True))
                except AttemptFailed as failure:
                    member.lost = True
                    course.progress.attempts.append(failure.record)
        waiting = [trial.result() for member, trial in begun if not member.lost]
        left_s = max(0.0, course.deadline_s - time.monotonic())
        if waiting:
            await asyncio.wait(waiting, timeout=min(FAREWELL_S, left_s))
        for member, trial in begun:
            if not member.lost and trial.result().done():
                self._conclude(text, member, trial)
        ends = [member.done for member in text.members if member.done is not None]
        own = [done for done in ends if done.completion_tokens >= text.steps]
        silent = Done(0, {}, "", "length", 0, 0, Energy(math.nan, Provenance.UNMEASURED, ""), 0.0, 0.0)
        return next(iter(own or ends), silent)

    def _conclude(self, text: Ensemble, member: Member, trial: Trial) -> None:
        progress = text.course.progress
        try:
            member.done, record = trial.conclude(trial.result().result())
        except SessionEnded:
            member.lost = True
            record = trial.failure("NODE_GONE").record
        except AttemptFailed as failure:
            member.lost = True
            record = failure.record
        progress.attempts.append(record)

    def _close(self, text: Ensemble) -> None:
        """Whoever has not told its joules is cancelled, and counts as predicted."""
        for member in text.present:
            if member.trial is not None:
                if member.done is None:
                    text.course.progress.attempts.append(member.trial.cancelled())
                member.trial.close()


def _joined(lists: list[str]) -> str:
    told = [one for text in lists if text for one in json.loads(text)]
    return json.dumps(told, separators=(",", ":")) if told else ""


def _lost(reason: str) -> Unavailable:
    return Unavailable(
        "EXPERT_LOST",
        "An expert was lost in the middle of a text that several wrote. Ask again, or let the others go on:"
        " fusion.continue_on_loss.",
        metadata={"reason": reason},
        retry_after_s=0.5,
    )
