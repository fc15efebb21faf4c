"""One tensor query from its limits to its reply: follow the chosen route, retry elsewhere, stop when confident.

What was answered so far is never thrown away: when a later stage fails or time runs out, the best answer so far is the
answer.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from edgewise.v1 import fleet_pb2
from optimizer.routes.fusion import Fused, confident, fuse
from optimizer.routes.route import Fusion, Route
from orchestrator.errors import DeadlineExceeded
from orchestrator.execution.attempt import UNTOLD, Ask, AttemptFailed, Attempts
from orchestrator.execution.exhausted import why_exhausted
from orchestrator.execution.window import Window
from orchestrator.fleet.arms import ArmBoard
from orchestrator.personal.types import PersonalNote
from orchestrator.personal.wire import encode_owner
from orchestrator.routing.route import Decision
from orchestrator.types import Array, AttemptRecord, Energy, FusionChoice, Limits, Provenance, Query
from orchestrator.wire import encode_tensor

# Kept free at the end of the latency budget for fusing and writing the reply.
REPLY_RESERVE_MS = 2.0
REPLY_RESERVE_FRACTION = 0.05

LEAST_LIMIT_J = 1e-12

# An expert's probabilities may miss 1 by this much in all: half precision, not garbage.
SUM_TOLERANCE = 0.02

Decide = Callable[[Limits, frozenset[int]], Decision | None]
# Raises what is reserved by so many joules; false where it stays as it is.
Extend = Callable[[float], bool]

# Worst first: the provenance of a sum is that of its worst part.
# Of several answers one is taken as it is.
_ONE_STANDS = (Fusion.NONE, Fusion.SUREST)
_PROVENANCE_ORDER = (Provenance.UNMEASURED, Provenance.MODELLED, Provenance.REPLAYED, Provenance.MEASURED)


@dataclass(slots=True)
class Progress:
    """What has happened to one query so far.

    Args:
        limits: What the whole query may spend.
        started_s: Monotonic.
        decision: The route that is being followed.
        attempts: Every attempt that ended.
        answers: Probabilities by expert, in the order they came.
        avoid: Arms that have failed this query.
        reserved_j: Joules that are reserved for it: no work is sent beyond them.
        extend: Reserves more for a route that takes over; None where nothing limits it.
        written_off_j: Of what is reserved, what attempts may have taken that did not tell.
        told_from: Attempts from this one on are not in `written_off_j`.
        fused: The answer so far, None before the first.
        voices: How many experts' texts are in the answer to a text query.
        personal: What the owner's home node says of its answer.
    """

    limits: Limits
    started_s: float
    decision: Decision
    attempts: list[AttemptRecord] = field(default_factory=list)
    answers: dict[str, Array] = field(default_factory=dict)
    avoid: frozenset[int] = frozenset()
    fused: Fused | None = None
    reserved_j: float = math.inf
    extend: Extend | None = None
    written_off_j: float = 0.0
    told_from: int = 0
    infer_s: float = 0.0
    fuse_s: float = 0.0
    voices: int = 0
    personal: PersonalNote | None = None

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since the query came."""
        return (time.monotonic() - self.started_s) * 1000.0

    @property
    def spent_j(self) -> float:
        """Joules of all attempts; those that nobody knows count as 0."""
        return _told_j(self.attempts)

    @property
    def energy_left_j(self) -> float:
        """Joules that are left of the budget; infinite where there is no limit."""
        return max(0.0, self.limits.max_energy_j - _told_j(self.attempts))

    @property
    def allowed_j(self) -> float:
        """Joules that may still be spent: of the budget, and of what is reserved."""
        if self.extend is None:
            return self.energy_left_j
        return max(0.0, min(self.energy_left_j, self.reserved_j - self.charged_j))

    @property
    def charged_j(self) -> float:
        """What budgets are charged: what was told, and all that was reserved where an arm did not tell.

        Work that was given up, cancelled or lost may have run on to its limit, and nobody knows.
        """
        recent = self.attempts[self.told_from :]
        if not recent:
            return self.written_off_j
        told_j = _told_j(recent)
        if math.isfinite(self.reserved_j) and any(map(_untold, recent)):
            return max(self.written_off_j + told_j, self.reserved_j)
        return self.written_off_j + told_j

    def covers(self, bound_j: float) -> bool:
        """Whether a route that may take so much is reserved for; reserves what is missing if that can be had."""
        if self.extend is None:
            return True
        self.written_off_j, self.told_from = self.charged_j, len(self.attempts)
        missing_j = self.written_off_j + bound_j - self.reserved_j
        if missing_j <= 0.0:
            return True
        if not self.extend(missing_j):
            return False
        self.reserved_j += missing_j
        return True

    def left(self) -> Limits:
        """What is left of the budget."""
        return replace(
            self.limits,
            max_energy_j=self.energy_left_j,
            max_latency_ms=max(0.0, self.limits.max_latency_ms - self.elapsed_ms),
        )


def bound_of(decision: Decision) -> float:
    """What a decision's route may take at the promise's quantile; infinite where its joules are unknown."""
    return 0.0 if decision.promise is None else decision.promise.energy_bound_j


def wire_limit_j(allowed_j: float) -> float:
    """An energy limit as nodes are told: 0 stands for none, so that nothing left is told as next to nothing."""
    return max(allowed_j, LEAST_LIMIT_J) if math.isfinite(allowed_j) else 0.0


def _told_j(attempts: list[AttemptRecord]) -> float:
    """The sum of those joules that are known."""
    if not attempts:
        return 0.0
    return math.fsum([a.energy.energy_j for a in attempts if not math.isnan(a.energy.energy_j)])


def _untold(attempt: AttemptRecord) -> bool:
    energy = attempt.energy
    return math.isnan(energy.energy_j) or (energy.method == UNTOLD and energy.energy_j > 0.0)


def total_energy(attempts: list[AttemptRecord]) -> Energy:
    """The joules of a query: the sum over its attempts, with the worst provenance among them."""
    parts = [attempt.energy for attempt in attempts]
    if not parts:
        return Energy(0.0, Provenance.MODELLED, "nothing-ran")
    if len(parts) == 1:
        return parts[0]
    provenance = min((part.provenance for part in parts), key=_PROVENANCE_ORDER.index)
    methods = "+".join(sorted({part.method for part in parts if part.method}))
    if provenance is Provenance.UNMEASURED:
        return Energy(math.nan, provenance, methods)
    return Energy(
        math.fsum(part.energy_j for part in parts),
        provenance,
        methods,
        math.sqrt(math.fsum(part.uncertainty_j**2 for part in parts)),
        _idle_j(parts),
        "+".join(sorted({part.share for part in parts if part.share})),
        any(part.preliminary for part in parts),
    )


def _idle_j(parts: list[Energy]) -> float | None:
    told = [part.idle_j for part in parts if part.idle_j is not None]
    return math.fsum(told) if told else None


class Runner:
    """Runs routed queries.

    Args:
        board: Predictions of arms.
        attempts: Sends work to nodes.
        max_attempts: Routes that are tried for one query, the first included; 1 switches retries off.
    """

    def __init__(self, board: ArmBoard, attempts: Attempts, *, max_attempts: int) -> None:
        self._board = board
        self._attempts = attempts
        self.max_attempts = max_attempts

    async def run(self, query: Query, progress: Progress, decide: Decide) -> Fused:
        """The best answer within the limits.

        Args:
            query: What to answer.
            progress: Limits and first decision; filled as things happen, also when this is cancelled.
            decide: Routes what is left of the query around the arms that failed it; None where nothing is left.

        Raises:
            DeadlineExceeded: Time ran out before any answer.
            Unavailable: Every attempt failed.
        """
        window_ms = _window_ms(query, progress)
        try:
            with Window((window_ms - progress.elapsed_ms) / 1000.0):
                await self._until_answered(query, progress, decide)
        except TimeoutError:
            bound = progress.decision.route
            if progress.fused is None and progress.answers and bound is not None:
                # Experts side by side: those that answered are an answer, whatever the others still do.
                progress.fused = _fuse(bound.route, progress)
            if progress.fused is None:
                raise DeadlineExceeded(window_ms) from None
        if progress.fused is None:
            raise why_exhausted(progress.attempts)
        return progress.fused

    async def _until_answered(self, query: Query, progress: Progress, decide: Decide) -> None:
        for _ in range(self.max_attempts):
            try:
                await self._follow(query, progress, decide)
            except AttemptFailed as failure:
                if failure.final:
                    break
                decision = decide(progress.left(), progress.avoid)
                if decision is None or decision.route is None or not progress.covers(bound_of(decision)):
                    break
                progress.decision = decision
            else:
                return

    async def _follow(self, query: Query, progress: Progress, decide: Decide) -> None:
        bound = progress.decision.route
        if bound is None:
            raise why_exhausted(progress.attempts)
        for stage, arms in enumerate(bound.arms):
            if stage and not self._affordable(arms, progress):
                return
            await self._run_stage(query, progress, stage, decide)
            progress.fused = _fuse(bound.route, progress)
            if confident(bound.route, stage, float(progress.fused.confidence)):
                return

    def _affordable(self, arms: tuple[int, ...], progress: Progress) -> bool:
        """Whether another stage still fits; joules may have been more than predicted."""
        bound_j = self._bound_j(arms)
        if progress.decision.within:
            return bound_j <= progress.allowed_j
        return progress.covers(bound_j)

    def _bound_j(self, arms: tuple[int, ...]) -> float:
        return sum(float(self._board.energy_bound_j_n[index]) for index in arms)

    def _share_j(self, progress: Progress, stage: int, index: int) -> float:
        """What one arm may take; arms side by side share what is reserved in the proportion of their bounds."""
        allowed_j = progress.allowed_j
        bound = progress.decision.route
        if progress.extend is None or bound is None or len(bound.arms[stage]) == 1:
            return allowed_j
        return allowed_j * float(self._board.energy_bound_j_n[index]) / self._bound_j(bound.arms[stage])

    async def _run_stage(self, query: Query, progress: Progress, stage: int, decide: Decide) -> None:
        """Run the stage's experts that have not answered yet, side by side; one answer is enough."""
        bound = progress.decision.route
        if bound is None:
            return
        states = [self._board.states[index] for index in bound.arms[stage]]
        missing = [state.index for state in states if state.arm.expert not in progress.answers]
        started_s = time.monotonic()
        try:
            if len(missing) == 1:
                failures = [await self._ask(query, progress, stage, missing[0], decide)]
            else:
                asks = [self._ask(query, progress, stage, index, decide) for index in missing]
                failures = list(await asyncio.gather(*asks))
        finally:
            progress.infer_s += time.monotonic() - started_s
        failed = [failure for failure in failures if failure is not None]
        if failed and len(failed) == len(states):
            raise failed[0]

    async def _ask(
        self, query: Query, progress: Progress, stage: int, index: int, decide: Decide
    ) -> AttemptFailed | None:
        def spare() -> bool:
            other = decide(progress.left(), progress.avoid | {index})
            return other is not None and other.route is not None

        energy_left_j = self._share_j(progress, stage, index)
        ask = Ask(
            index=index,
            stage=stage,
            request_id=query.request_id,
            fill=lambda work: _fill(work, query, self._board.states[index].arm.node),
            deadline_s=progress.started_s + _window_ms(query, progress) / 1000.0,
            energy_limit_j=wire_limit_j(energy_left_j),
            spare=spare,
            given_up=progress.attempts.append,
        )
        try:
            done, record = await self._attempts.run(ask)
            answer = _probabilities(done.outputs, query)
        except AttemptFailed as failure:
            progress.attempts.append(failure.record)
            progress.avoid = progress.avoid | {index}
            return failure
        if answer is None:
            # The node answered with something that is not an answer: treat it as a failure of the arm.
            record = replace(record, outcome="failed", reason="OUTPUT_INVALID")
            self._board.failed(index)
            progress.attempts.append(record)
            progress.avoid = progress.avoid | {index}
            return AttemptFailed(record)
        progress.attempts.append(record)
        progress.personal = done.personal or progress.personal
        progress.answers[self._board.states[index].arm.expert] = answer
        return None


def _window_ms(query: Query, progress: Progress) -> float:
    """Milliseconds in which this query's answer counts."""
    return window_ms(progress.limits, query.deadline_s, within=progress.decision.within)


def window_ms(limits: Limits, deadline_s: float, *, within: bool) -> float:
    """Milliseconds in which an answer counts: the budget where it was promised, the call's deadline otherwise."""
    whole_ms = limits.max_latency_ms if within else deadline_s * 1000.0
    return whole_ms - min(REPLY_RESERVE_MS, REPLY_RESERVE_FRACTION * whole_ms)


def _fill(work: fleet_pb2.Work, query: Query, node: str) -> None:
    if query.owner is not None and query.home == node:
        work.owner.CopyFrom(encode_owner(query.owner))
    work.tensors.inputs.extend([encode_tensor(name, array) for name, array in query.inputs.items()])


def _probabilities(outputs: dict[str, Array] | object, query: Query) -> Array | None:
    """The expert's distribution over the task's labels, or None where the output is not one."""
    if not isinstance(outputs, dict):
        return None
    array = outputs.get(query.task.output.name)
    if array is None or array.size != len(query.task.labels) or array.dtype.kind != "f":
        return None
    values = array.reshape(-1).tolist()
    total = sum(values)
    # Written so that NaN fails the comparison.
    if not abs(total - 1.0) <= SUM_TOLERANCE or min(values) < 0:
        return None
    return np.array([value / total for value in values])


def _fuse(route: Route, progress: Progress) -> Fused:
    """The answers so far as one; after a change of route only those that are on it, else the newest alone."""
    started_s = time.monotonic()
    if len(progress.answers) == 1:
        alone = next(iter(progress.answers.values()))
        progress.fuse_s += time.monotonic() - started_s
        # Looking up the largest costs a quarter of `max`, and a distribution holds no NaN.
        return Fused(alone, alone[alone.argmax()])
    on_route = [(expert, answer) for expert, answer in progress.answers.items() if expert in route.experts]
    newest = list(progress.answers.items())[-1:]
    fused = fuse(route, on_route) if on_route else fuse(Route.single(newest[0][0]), newest)
    progress.fuse_s += time.monotonic() - started_s
    return fused


def fusion_of(progress: Progress) -> FusionChoice:
    """How the answer came about: more than one expert's answer in it, or one expert's alone."""
    bound = progress.decision.route
    if bound is None or bound.alone is not None:
        return FusionChoice.NONE
    if bound.route.writes_together and progress.voices:
        # Whose turns came is drawn: also one alone wrote for all.
        return FusionChoice(bound.route.fusion.value)
    if max(len(progress.answers), progress.voices) < 2 or bound.route.fusion in _ONE_STANDS:
        return FusionChoice.NONE
    if bound.route.fusion is Fusion.JUDGE:
        return FusionChoice.JUDGE
    if progress.voices:
        return FusionChoice.VOTE
    return FusionChoice.VOTE if bound.route.fusion is Fusion.VOTE else FusionChoice.MIXTURE
