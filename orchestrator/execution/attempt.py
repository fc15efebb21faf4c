"""One attempt of one arm at one piece of work: send it, wait for it with bounded patience, account for it."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from edgewise.v1 import fleet_pb2
from optimizer.frozen import frozen
from orchestrator.execution.window import Window
from orchestrator.fleet.fleet import Fleet
from orchestrator.fleet.load import Ahead
from orchestrator.fleet.session import NodeSession, OutboxFull, Pending, SessionEnded
from orchestrator.routing.text_figures import Cost
from orchestrator.types import AttemptRecord, Delta, Done, Energy, Failed, Provenance

# An attempt that takes this many times its bound is given up if another arm could take over.
PATIENCE_FACTOR = 4.0
MIN_PATIENCE_S = 0.1
# Of an expert in the middle of a text, which is lost with it for good.
TURN_PATIENCE_S = 0.5
# A timer that comes later than this tells of a busy gateway, not of a silent node.
HELD_UP_S = 0.05

# Method of joules that no node told: the prediction stands in for them.
UNTOLD = "predicted"

WorkInput = Callable[[fleet_pb2.Work], None]


class LateError(Exception):
    """An attempt took longer than its patience and another arm can take over."""


class AttemptFailed(Exception):
    """An arm did not answer; `record` says what it cost and why, `final` whether trying elsewhere is pointless."""

    def __init__(self, record: AttemptRecord, *, final: bool = False) -> None:
        super().__init__(record.reason)
        self.record = record
        self.final = final


def no_spare() -> bool:
    """Of a text: no other arm takes over before an attempt has failed."""
    return False


@frozen
class Ask:
    """What is asked of an arm.

    Args:
        index: The arm on the board.
        stage: Stage of the route, for the record.
        request_id: For the node's log.
        fill: Writes the input into the message.
        deadline_s: Monotonic time after which the answer is of no use.
        energy_limit_j: Joules that this work may take; 0 for no limit.
        spare: Whether another arm could take over, asked when patience ends.
        given_up: Takes the record of work that nobody waits for any more: it has cost joules all the same.
        cost: What this text is expected to cost; None takes what the arm costs as a rule.
        learns: Whether what it takes says anything of the arm; false for a part of a text that others write too.
    """

    index: int
    stage: int
    request_id: str
    fill: WorkInput
    deadline_s: float
    energy_limit_j: float
    spare: Callable[[], bool]
    given_up: Callable[[AttemptRecord], None]
    cost: Cost | None = None
    learns: bool = True


def patience_for_s(bound_ms: float, max_patience_s: float) -> float:
    """How long an attempt with such a bound may take before another arm is tried, if one could take over."""
    return min(max(MIN_PATIENCE_S, PATIENCE_FACTOR * bound_ms / 1000.0), max_patience_s)


class Attempts:
    """Sends work to nodes.

    Args:
        fleet: Where the nodes are.
        max_patience_s: Longest silence before another arm is tried.
        retries: False waits for every arm until the deadline; for the control experiments of the tests.
    """

    def __init__(self, fleet: Fleet, *, max_patience_s: float, retries: bool = True) -> None:
        self._fleet = fleet
        self._max_patience_s = max_patience_s
        self._retries = retries
        self._work_ids = itertools.count(1)

    def tune(self, *, max_patience_s: float, retries: bool) -> None:
        """Change what was given at the start, for attempts that begin from now on."""
        self._max_patience_s, self._retries = max_patience_s, retries

    async def run(self, ask: Ask, *, in_time: bool = False) -> tuple[Done, AttemptRecord]:
        """The arm's answer and its record.

        Args:
            ask: What is asked.
            in_time: Whether to give up at the deadline; false where whoever calls does so.

        Raises:
            AttemptFailed: The node refused, failed, went away or took too long.
            TimeoutError: The deadline came first.
        """
        trial = self._start(ask, streaming=False)
        trial.in_time = in_time
        try:
            self._watch(trial, patience_for_s(trial.bound_ms, self._max_patience_s) if self._retries else math.inf)
            return trial.conclude(await trial.result())
        except SessionEnded:
            raise trial.failure("NODE_GONE") from None
        except LateError:
            raise trial.failure("LATE", outcome="late") from None
        except (TimeoutError, asyncio.CancelledError):
            ask.given_up(trial.cancelled())
            raise
        finally:
            trial.close()

    def start_text(self, ask: Ask) -> Trial:
        """Start a streaming attempt; the caller reads `Trial.deltas` and must call `Trial.close`."""
        return self._start(ask, streaming=True)

    def _start(self, ask: Ask, *, streaming: bool) -> Trial:
        arm = self._fleet.board.states[ask.index].arm
        session = self._fleet.sessions.get(arm.node)
        trial = Trial(self._fleet, ask, session)
        if session is None:
            raise trial.failure("NODE_GONE")
        command = session.draft()
        work = command.work
        work.work_id, work.request_id = next(self._work_ids), ask.request_id
        work.expert, work.variant = arm.expert, arm.variant
        work.deadline_ms = max(0.0, (ask.deadline_s - time.monotonic()) * 1000.0)
        work.energy_limit_j = ask.energy_limit_j
        ask.fill(work)
        try:
            trial.begin(session.submit(command, streaming=streaming))
        except (OutboxFull, SessionEnded):
            raise trial.failure("NODE_BUSY") from None
        return trial

    async def written(self, trial: Trial, *, patience_s: float) -> Delta | None:
        """What a node wrote in its turn; None when its result is there and nothing is left to take.

        Raises:
            AttemptFailed: LATE, where it says nothing for so long.
            TimeoutError: The deadline came first.
        """
        while True:
            wait_s = min(patience_s, trial.left_s())
            due_s = time.monotonic() + wait_s
            try:
                with Window(wait_s):
                    return await trial.delta()
            except TimeoutError:
                if wait_s < patience_s:
                    raise
            if time.monotonic() - due_s <= HELD_UP_S:
                break
            # This process was held up: what the node has said meanwhile is not read yet.
            patience_s = min(patience_s, MIN_PATIENCE_S)
        if trial.silent():
            self._fleet.suspect(trial.session)
        raise trial.failure("LATE", outcome="late")

    def patience_s(self, trial: Trial) -> float:
        """How long a node may say nothing in its turn, where the text can do without it."""
        if not trial.ask.spare():
            return math.inf
        return max(TURN_PATIENCE_S, patience_for_s(trial.bound_ms, self._max_patience_s))

    def _watch(self, trial: Trial, patience_s: float) -> None:
        """Look after an attempt when patience ends or, where it must end then, at its deadline, whichever is first.

        One timer instead of an `asyncio.timeout` for each: every request comes this way.
        """
        left_s, loop = trial.left_s(), trial.result().get_loop()
        if patience_s < left_s:
            trial.timer = loop.call_later(patience_s, self._lose_patience, trial, loop.time() + patience_s)
        elif trial.in_time:
            trial.timer = loop.call_later(max(0.0, left_s), trial.expire)

    def _lose_patience(self, trial: Trial, due_s: float) -> None:
        """Give an attempt up if another arm could take over; wait on if not."""
        result = trial.result()
        if result.done():
            return
        if result.get_loop().time() - due_s > HELD_UP_S:
            # This process was held up, and what the node has said meanwhile is not read yet: that is no silence.
            self._watch(trial, MIN_PATIENCE_S)
            return
        if trial.silent():
            self._fleet.suspect(trial.session)
        if trial.ask.spare():
            result.set_exception(LateError())
        else:
            self._watch(trial, math.inf)


class Trial:
    """An attempt under way: bookkeeping on the board, and the record in the end.

    `in_time` says whether it is given up at its deadline, `timer` looks after it while its result is waited for.
    """

    def __init__(self, fleet: Fleet, ask: Ask, session: NodeSession | None) -> None:
        board, n, cost = fleet.board, ask.index, ask.cost
        self.ask = ask
        self.in_time = False
        self.timer: asyncio.TimerHandle | None = None
        self._board = board
        self._session = session
        self._state = board.states[n]
        self._started_s = time.monotonic()
        self._wait_ms = self._load_ms = 0.0
        self._ahead: Ahead | None = None
        self._service_ms = board.service_ms_n.item(n) if cost is None else cost.service_ms
        self.bound_ms = board.service_bound_ms_n.item(n) if cost is None else cost.service_bound_ms
        if board.loaded:
            self._wait_ms, self._load_ms = board.wait_ms_n.item(n), board.load_ms_n.item(n)
            self.bound_ms += board.wait_bound_ms_n.item(n)
            self._ahead = board.ahead(n)
        self._predicted_ms = self._wait_ms + self._service_ms
        self._predicted_j = board.energy_j_n.item(n) if cost is None else cost.energy_j
        self._pending: Pending | None = None
        self._held_ms: float | None = None

    @property
    def session(self) -> NodeSession:
        """The node's session; there is one once the trial has begun."""
        if self._session is None:
            raise self.failure("NODE_GONE")
        return self._session

    def begin(self, pending: Pending) -> None:
        """The work was sent."""
        self._pending = pending
        held_ms = None if self.ask.cost is None else self._service_ms
        self._held_ms = self._board.dispatched(self.ask.index, held_ms)

    def result(self) -> asyncio.Future[Done | Failed]:
        """The node's result, in time or not."""
        if self._pending is None:
            raise self.failure("NODE_GONE")
        return self._pending.result

    def expire(self) -> None:
        """The deadline has come: nobody waits any more."""
        if not self.result().done():
            self.result().set_exception(TimeoutError())

    async def delta(self) -> Delta | None:
        """The next piece of text, or None when the result is there and nothing is left to take."""
        pending = self._pending
        if pending is None or pending.deltas is None:
            return None
        while pending.deltas.empty():
            if pending.result.done():
                return None
            taking = asyncio.ensure_future(pending.deltas.get())
            either: set[asyncio.Future[Any]] = {taking, pending.result}
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if taking.done():
                    return taking.result()
            finally:
                taking.cancel()
        return pending.deltas.get_nowait()

    def turn(self, turn: fleet_pb2.Turn) -> None:
        """Go on with a text that others write too.

        Raises:
            AttemptFailed: The node is gone or takes no more.
        """
        if self._pending is None:
            raise self.failure("NODE_GONE")
        try:
            self.session.turn(self._pending, turn)
        except SessionEnded:
            raise self.failure("NODE_GONE") from None
        except OutboxFull:
            raise self.failure("NODE_BUSY") from None

    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.ask.deadline_s - time.monotonic()

    def silent(self) -> bool:
        """Whether the node has said nothing since the work was sent."""
        return self._pending is not None and self.session.seen_s < self._pending.sent_s

    def conclude(self, result: Done | Failed) -> tuple[Done, AttemptRecord]:
        """The answer and its record; what was seen goes to the board.

        Raises:
            AttemptFailed: The node could not do it.
        """
        if isinstance(result, Failed):
            failed = self.failure(result.reason, energy=result.energy)
            failed.final = result.final
            raise failed
        elapsed_ms = self._elapsed_ms()
        service_ms = elapsed_ms - self._waited_ms(result)
        if not self.ask.learns:
            self._state.answered += 1
        elif self.ask.cost is None:
            # From joules that were themselves predicted there is nothing to learn; the final ones follow.
            energy_j = math.nan if result.energy.preliminary else result.energy.energy_j - result.load_j
            self._board.answered(self.ask.index, service_ms=service_ms, energy_j=energy_j)
        else:
            done = _without_load(result) if result.load_j else result
            self._board.generated(self.ask.index, done, service_ms=service_ms)
        return result, self._record("answered", "", result.energy, elapsed_ms)

    def ended(self) -> AttemptFailed:
        """Why a node has no more to say in the middle of its turn."""
        result = self.result()
        if result.done() and result.exception() is None:
            try:
                self.conclude(result.result())
            except AttemptFailed as failure:
                return failure
        return self.failure("NODE_GONE" if result.done() and result.exception() is not None else "OUTPUT_INVALID")

    def _waited_ms(self, result: Done) -> float:
        """Milliseconds that are no part of what the arm takes: in the queue, as its node says, and of loading.

        Where a node does not say, the prediction stands in; it would feed back into the next one.
        """
        if result.compute_ms > 0.0:
            if self._ahead is not None:
                self._board.waited(self.ask.index, self._ahead, result.queue_ms)
            return result.queue_ms + result.load_ms
        return self._wait_ms - self._load_ms + result.load_ms

    def failure(self, reason: str, *, outcome: str = "failed", energy: Energy | None = None) -> AttemptFailed:
        """The failure of this attempt; joules that nobody told count as predicted once the work was sent."""
        self._board.failed(self.ask.index)
        if energy is None or energy.provenance is Provenance.UNMEASURED:
            energy = self._untold()
        return AttemptFailed(self._record(outcome, reason, energy, self._elapsed_ms()))

    def cancelled(self) -> AttemptRecord:
        """The record of work that is given up because its request has ended; no fault of the arm."""
        return self._record("cancelled", "CANCELLED", self._untold(), self._elapsed_ms())

    def _untold(self) -> Energy:
        if self._held_ms is None:
            return Energy(0.0, Provenance.MODELLED, UNTOLD)
        if self._state.arm.energy.provenance is Provenance.UNMEASURED:
            return Energy(math.nan, Provenance.UNMEASURED, self._state.arm.energy.method)
        return Energy(self._predicted_j, Provenance.MODELLED, UNTOLD)

    def close(self) -> None:
        """The attempt is over, however it ended: free its slot, cancel what still runs."""
        if self.timer is not None:
            self.timer.cancel()
        if self._held_ms is not None:
            self._board.released(self.ask.index, self._held_ms)
            self._held_ms = None
        if self._pending is not None and self._session is not None:
            self._session.abandon(self._pending)

    def _elapsed_ms(self) -> float:
        return (time.monotonic() - self._started_s) * 1000.0

    def _record(self, outcome: str, reason: str, energy: Energy, ms: float) -> AttemptRecord:
        arm, stage, predicted_j = self._state.arm.name, self.ask.stage, self._predicted_j
        work_id = 0 if self._pending is None else self._pending.work_id
        return AttemptRecord(arm, stage, predicted_j, energy, self._predicted_ms, ms, outcome, reason, work_id)


def _without_load(done: Done) -> Done:
    """The answer as if its expert had been in memory."""
    return replace(done, energy=replace(done.energy, energy_j=done.energy.energy_j - done.load_j))
