"""One text query: follow the chosen route and stream what can be streamed.

An expert alone, and the last of a cascade, stream as they generate; what an earlier stage says is held back until it is
known whether it stands. Another arm takes over only while nothing was delivered. What was answered by an earlier stage
is never thrown away: when a later one fails or time runs out, it is the answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from functools import partial

from optimizer.routes.fusion import confident
from optimizer.routes.route import Fusion
from orchestrator.errors import DeadlineExceeded
from orchestrator.execution.attempt import Ask, AttemptFailed, Attempts, Trial, no_spare
from orchestrator.execution.course import BUDGET, LENGTH, Confide, Course, TextEnd, fill, standing, stands_in, text_end
from orchestrator.execution.ensemble import Ensembles
from orchestrator.execution.exhausted import why_exhausted
from orchestrator.execution.judge import judge_query, verdict
from orchestrator.execution.run import Decide, Progress, bound_of, wire_limit_j
from orchestrator.fleet.arms import ArmBoard
from orchestrator.fleet.session import SessionEnded
from orchestrator.routing.binding import BoundRoute
from orchestrator.routing.figures import Reading, TextFigures, affordable_tokens, text_figures
from orchestrator.types import AttemptRecord, Delta, Done, TextQuery


class TextRunner:
    """Runs routed text queries.

    Args:
        board: Predictions of arms.
        attempts: Sends work to nodes.
        max_attempts: Routes that are tried while nothing was delivered.
    """

    def __init__(self, board: ArmBoard, attempts: Attempts, *, max_attempts: int) -> None:
        self._board = board
        self._attempts = attempts
        self._ensembles = Ensembles(attempts)
        self.max_attempts = max_attempts

    async def run(
        self, reading: Reading, progress: Progress, decide: Decide, *, confidence: Confide, figures: TextFigures
    ) -> AsyncIterator[Delta | TextEnd]:
        """Pieces of text, then the end.

        Args:
            reading: The query to answer.
            progress: Limits and first decision; filled as things happen.
            decide: Routes what is left of the query around the arms that failed it.
            confidence: How sure of their answers experts are, asked where answers are held back.
            figures: What the text costs on every arm.

        Raises:
            DeadlineExceeded: The latency budget ran out before any answer.
            Unavailable: Every attempt failed, or one failed after text had been delivered.
        """
        course, whole_ms = _course(reading, progress, confidence, figures)
        try:
            for _ in range(self.max_attempts):
                try:
                    pieces = await self._follow(course)
                    if pieces is None:
                        break
                    async for piece in pieces:
                        course.delivered = True
                        yield piece
                    return
                except AttemptFailed as failure:
                    if not self._goes_on(course, failure, decide):
                        break
            _check_answered(course)
        except TimeoutError:
            _check_in_time(course, whole_ms)
        for piece in standing(course):
            yield piece

    async def end(
        self, reading: Reading, progress: Progress, decide: Decide, *, confidence: Confide, figures: TextFigures
    ) -> TextEnd:
        """The end alone, of a text that nobody reads before it; otherwise as `run`, without a generator's cost."""
        course, whole_ms = _course(reading, progress, confidence, figures)
        try:
            for _ in range(self.max_attempts):
                try:
                    bound = progress.decision.route
                    if bound is not None and bound.alone is not None and course.query.whole and not course.answered:
                        # Most texts.
                        return await self._say(course, bound.alone)
                    pieces = await self._follow(course)
                    if pieces is None:
                        break
                    return await _last(course, pieces)
                except AttemptFailed as failure:
                    if not self._goes_on(course, failure, decide):
                        break
            _check_answered(course)
        except TimeoutError:
            _check_in_time(course, whole_ms)
        return stands_in(course)[1]

    def _goes_on(self, course: Course, failure: AttemptFailed, decide: Decide) -> bool:
        """Whether there is another route to try after one that failed."""
        return not (course.delivered or failure.final) and self._reroute(course.progress, decide)

    def _reroute(self, progress: Progress, decide: Decide) -> bool:
        decision = decide(progress.left(), progress.avoid)
        if decision is None or decision.route is None or not progress.covers(bound_of(decision)):
            return False
        progress.decision = decision
        return True

    async def _follow(self, course: Course) -> AsyncIterator[Delta | TextEnd] | None:
        """The route's stages; gives what streams: a last stage whose single expert's answer stands, or a text that
        several write. None where what was held back is all there is."""
        bound = course.progress.decision.route
        if bound is None:
            return None
        course.panel.follow(bound.route)
        last = len(bound.arms) - 1
        judged = bound.route.fusion is Fusion.JUDGE
        if bound.route.writes_together:
            return self._ensembles.write(course, bound)
        for stage, arms in enumerate(bound.arms):
            if stage and not self._affordable(course, arms):
                break
            if stage == last and judged and stage:
                await self._judge(course, arms[0], stage)
            elif stage == last and len(arms) == 1 and bound.route.fusion is Fusion.NONE and not course.query.whole:
                return self._stream(course, arms[0], stage)
            else:
                await self._hear(course, arms, stage)
            if stage < last and self._stands(course, bound, stage):
                break
        return None

    def _stands(self, course: Course, bound: BoundRoute, stage: int) -> bool:
        ballot = course.panel.ballot
        if bound.route.fusion is Fusion.JUDGE:
            return ballot.agreed
        return confident(bound.route, stage, ballot.result()[1]) or ballot.settled(
            [expert for later in bound.route.stages[stage + 1 :] for expert in later]
        )

    def _affordable(self, course: Course, arms: tuple[int, ...]) -> bool:
        """Whether another stage still fits; joules may have been more than predicted."""
        progress = course.progress
        bound_j = sum(course.figures.cost_n[index].energy_bound_j for index in arms)
        if progress.decision.within:
            return bound_j <= progress.allowed_j
        return progress.covers(bound_j)

    # ---- one expert, streamed

    async def _stream(self, course: Course, index: int, stage: int) -> AsyncIterator[Delta | TextEnd]:
        ask, asked_tokens = self._ask(course, course.query, index, stage=stage, share_j=course.progress.allowed_j)
        progress, started_s = course.progress, time.monotonic()
        try:
            trial = self._attempts.start_text(ask)
            try:
                while (piece := await _within(trial, course.deadline_s)) is not None:
                    course.delivered = True
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
        except AttemptFailed as failure:
            self._failed(course, index, failure)
            raise
        yield self._ended(course, index, done, record, asked_tokens=asked_tokens)

    def _ended(self, course: Course, index: int, done: Done, record: AttemptRecord, *, asked_tokens: int) -> TextEnd:
        """An expert has written a text alone."""
        course.progress.attempts.append(record)
        self._count(course, index, done)
        course.progress.voices = max(1, course.progress.voices)
        return text_end(done, self._board.states[index].arm.expert, asked_tokens=asked_tokens, query=course.query)

    # ---- one expert, whole

    async def _say(self, course: Course, index: int) -> TextEnd:
        """The end of a text that an expert writes alone: nothing is held back, for nobody reads it before.

        Raises:
            AttemptFailed: It did not answer.
            TimeoutError: Time ran out.
        """
        progress, started_s = course.progress, time.monotonic()
        ask, asked_tokens = self._ask(course, course.query, index, stage=0, share_j=progress.allowed_j)
        try:
            done, record = await self._attempts.run(ask, in_time=True)
        except AttemptFailed as failure:
            self._failed(course, index, failure)
            raise
        finally:
            progress.infer_s += time.monotonic() - started_s
        return self._ended(course, index, done, record, asked_tokens=asked_tokens)

    # ---- experts side by side, held back

    def _hear(self, course: Course, arms: tuple[int, ...], stage: int) -> Awaitable[None]:
        """Run experts side by side until the vote is settled; one answer is enough.

        Raises:
            AttemptFailed: None of them answered.
            TimeoutError: Time ran out.
        """
        if len(arms) == 1 and not course.answered:
            return self._hear_one(course, arms[0], stage)
        return self._hear_several(course, arms, stage)

    async def _hear_one(self, course: Course, index: int, stage: int) -> None:
        """The same for one expert: nothing is set up that only several need."""
        progress, started_s = course.progress, time.monotonic()
        query = _held_back(course.query)
        ask, asked_tokens = self._ask(course, query, index, stage=stage, share_j=progress.allowed_j)
        try:
            done, record = await self._attempts.run(ask, in_time=True)
        except AttemptFailed as failure:
            self._failed(course, index, failure)
            if not course.answered:
                raise
        else:
            self._answered(course, index, done, record, asked_tokens=asked_tokens)
        finally:
            progress.infer_s += time.monotonic() - started_s

    async def _hear_several(self, course: Course, arms: tuple[int, ...], stage: int) -> None:
        panel, progress = course.panel, course.progress
        missing = {index: self._board.states[index].arm.expert for index in arms}
        if panel.answered:
            missing = {index: expert for index, expert in missing.items() if expert not in panel.answered}
        if len(missing) == 1:
            await self._hear_one(course, next(iter(missing)), stage)
            return
        whole_j = sum(course.figures.cost_n[index].energy_bound_j for index in arms)
        started_s, allowed_j = time.monotonic(), progress.allowed_j
        tasks = {}
        for index in missing:
            own_j = course.figures.cost_n[index].energy_bound_j
            share_j = allowed_j * own_j / whole_j if 0.0 < whole_j < float("inf") else allowed_j
            asking = self._listen(course, index, stage=stage, share_j=share_j)
            tasks[asyncio.ensure_future(asking)] = index
        failures: list[AttemptFailed] = []
        try:
            async with asyncio.timeout(max(0.0, course.deadline_s - started_s)):
                await self._collect(course, tasks, missing, failures)
        finally:
            progress.infer_s += time.monotonic() - started_s
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if failures and not panel.answered:
            raise failures[0]

    async def _collect(
        self,
        course: Course,
        tasks: dict[asyncio.Task[AttemptFailed | None], int],
        missing: dict[int, str],
        failures: list[AttemptFailed],
    ) -> None:
        pending = set(tasks)
        while pending:
            ended, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                missing.pop(tasks[task])
                failure = task.result()
                if failure is not None:
                    failures.append(failure)
            if course.panel.ballot.settled(list(missing.values())):
                return

    async def _listen(self, course: Course, index: int, *, stage: int, share_j: float) -> AttemptFailed | None:
        query = _held_back(course.query)
        ask, asked_tokens = self._ask(course, query, index, stage=stage, share_j=share_j)
        try:
            done, record = await self._attempts.run(ask)
        except AttemptFailed as failure:
            self._failed(course, index, failure)
            return failure
        self._answered(course, index, done, record, asked_tokens=asked_tokens)
        return None

    def _failed(self, course: Course, index: int, failure: AttemptFailed) -> None:
        """An expert did not answer: it is not asked again for this text."""
        course.progress.attempts.append(failure.record)
        course.progress.avoid = course.progress.avoid | {index}

    def _answered(self, course: Course, index: int, done: Done, record: AttemptRecord, *, asked_tokens: int) -> None:
        """An expert answered: its answer is held back."""
        course.progress.attempts.append(record)
        self._count(course, index, done)
        if done.finish_reason == LENGTH and asked_tokens < course.query.parameters.max_tokens:
            done = replace(done, finish_reason=BUDGET)
        course.panel.add(self._board.states[index].arm.expert, done)
        course.progress.voices = len(course.panel.answered)

    async def _judge(self, course: Course, index: int, stage: int) -> None:
        """Have the last expert say which of the answers is right; where it cannot, the vote stands."""
        query = judge_query(course.query, course.panel.texts())
        figures = text_figures(self._board, query)
        progress, started_s = course.progress, time.monotonic()
        bound_j = figures.cost_n[index].energy_bound_j
        if not (bound_j <= progress.allowed_j if progress.decision.within else progress.covers(bound_j)):
            return
        judging = replace(course, query=query, figures=figures, reading=Reading(query))
        ask, _ = self._ask(judging, query, index, stage=stage, share_j=progress.allowed_j)
        try:
            async with asyncio.timeout(max(0.0, course.deadline_s - started_s)):
                done, record = await self._attempts.run(ask)
        except AttemptFailed as failure:
            progress.attempts.append(failure.record)
            return
        finally:
            progress.infer_s += time.monotonic() - started_s
        progress.attempts.append(record)
        self._board.states[index].text.count(done.prompt_tokens, 0)
        progress.voices += 1
        course.panel.decide(verdict(done.text, len(course.panel.texts())))

    # ---- asking

    def _ask(self, course: Course, query: TextQuery, index: int, *, stage: int, share_j: float) -> tuple[Ask, int]:
        """What is asked of an arm, and the tokens that it may make."""
        arm, cost = self._board.states[index].arm, course.figures.cost_n[index]
        cap = affordable_tokens(self._board, index, allowed_j=share_j, prompt_tokens=cost.prompt_tokens)
        tokens = int(min(query.parameters.max_tokens, cap))
        ask = Ask(
            index=index,
            stage=stage,
            request_id=query.request_id,
            fill=partial(fill, query, tokens, arm.node),
            deadline_s=course.deadline_s,
            energy_limit_j=wire_limit_j(share_j),
            spare=no_spare,
            given_up=course.progress.attempts.append,
            cost=cost if arm.text is not None else None,
        )
        return ask, tokens

    def _count(self, course: Course, index: int, done: Done) -> None:
        state = self._board.states[index]
        state.text.heard(course.reading.of(state.arm), done)


def _course(reading: Reading, progress: Progress, confidence: Confide, figures: TextFigures) -> tuple[Course, float]:
    """A query at its beginning, and its latency budget in milliseconds."""
    query = reading.query
    whole_ms = progress.limits.max_latency_ms if progress.decision.within else query.deadline_s * 1000.0
    return Course(query, progress, figures, confidence, progress.started_s + whole_ms / 1000.0, reading), whole_ms


def _held_back(query: TextQuery) -> TextQuery:
    """The query of an expert whose answer nobody reads before it is complete."""
    return query if query.whole else replace(query, whole=True)


def _check_answered(course: Course) -> None:
    """Refuses to end a text without an answer, or one that broke off."""
    if course.delivered or not course.answered:
        raise why_exhausted(course.progress.attempts)


def _check_in_time(course: Course, whole_ms: float) -> None:
    """Refuses to end a text with what is there when its time ran out: none, or one that broke off."""
    if course.delivered or not course.answered:
        raise DeadlineExceeded(whole_ms) from None


async def _last(course: Course, pieces: AsyncIterator[Delta | TextEnd]) -> TextEnd:
    """The end of a text, its pieces let go."""
    end: TextEnd | None = None
    async for piece in pieces:
        course.delivered = True
        if isinstance(piece, TextEnd):
            end = piece
    if end is None:
        raise why_exhausted(course.progress.attempts)
    return end


async def _within(trial: Trial, deadline_s: float) -> Delta | None:
    async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
        return await trial.delta()
