"""Where work of one session is done: checked, run, metered, answered.

Every piece of work taken ends in exactly one WorkDone or WorkFailed, unless the session is gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from nodes import errors
from nodes.agent import checks, outcomes, turns
from nodes.agent import messages as m
from nodes.agent.outbox import OutboxClosed, weight_bytes
from nodes.arms import ArmProfile, ArmSpec, Inventory
from nodes.energy.contract import EnergyReading, Meter, Provenance, Settlement, Span
from nodes.engines.contract import Engine, Job, JobResult, LoadTaken, TextEnd, TextJob, TextPiece, Turn, Turns
from nodes.personal.office import Office
from nodes.personal.text.office import TextOffice
from nodes.residency.engine import ResidentEngine

MAX_OUTPUT_BYTES = 7 * 1024 * 1024
PREFILL, DECODE = "prefill", "decode"

UNMETERED = EnergyReading(None, 0.0, Provenance.UNMEASURED, "none")

log = structlog.get_logger("nodes.work")


@dataclass
class _Run:
    """One piece of work on its way."""

    work: m.Work
    arm: ArmSpec
    start_by_s: float
    macs: int = 0
    stage: str = ""
    span: Span | None = None
    started_s: float | None = None
    cancelled: bool = False
    turns: Turns | None = None
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def may_be_interrupted(self) -> bool:
        """Tensor work that runs cannot be stopped; its joules are reported when it has finished."""
        return self.started_s is None or isinstance(self.work.input, m.TextRequest)


class Desk:
    """Takes work of one session and sends its outcome.

    Args:
        engine: Runs it.
        meter: Charges it.
        inventory: What this node offers.
        send: Queues an event for the gateway; raises OutboxClosed when the session is over.
        profiles: What the arms cost here, by key; texts with an energy limit need it.
        personal: Answers for owners; None where the operator did not opt in.
        personal_texts: Writes for owners; likewise.
        pushed: Arms by key that the gateway sent, as they stand at any moment.
        resident: Loads and unloads what the gateway asks for; None where nothing is.
    """

    def __init__(
        self,
        engine: Engine,
        meter: Meter,
        *,
        inventory: Inventory,
        send: Callable[[m.Event], Awaitable[None]],
        profiles: Mapping[str, ArmProfile] | None = None,
        personal: Office | None = None,
        personal_texts: TextOffice | None = None,
        pushed: Mapping[str, ArmSpec] | None = None,
        resident: ResidentEngine | None = None,
    ) -> None:
        self._engine = engine
        self._meter = meter
        self._task_specs = {task.name: task for task in inventory.tasks}
        self._arms = {arm.key: arm for arm in inventory.arms}
        self._pushed = {} if pushed is None else pushed
        self._send = send
        self._profiles = profiles or {}
        self._personal = personal
        self._personal_texts = personal_texts
        self._offices = tuple(office for office in (personal, personal_texts) if office is not None)
        self._resident = resident
        self._runs: dict[int, _Run] = {}
        self._open_tasks: set[asyncio.Task[None]] = set()
        self._unsettled: dict[Span, int] = {}
        # Of work whose final joules may still come; a node has few loads, and a session ends.
        self._loads: dict[int, EnergyReading] = {}
        self._draining = False

    @property
    def busy(self) -> int:
        """Pieces of work that have no outcome yet."""
        return len(self._runs)

    def take(self, work: m.Work) -> None:
        """Start a piece of work; a work id that is already running is ignored."""
        if work.work_id in self._runs:
            return
        arm = self._arms.get(work.arm) or self._pushed.get(work.arm)
        if self._draining:
            self._refuse(work, m.Reason.DRAINING)
        elif arm is None:
            self._refuse(work, m.Reason.ARM_UNKNOWN)
        elif not work.deadline_ms > 0:  # Written so that NaN is refused too.
            self._refuse(work, m.Reason.DEADLINE)
        else:
            run = _Run(work, arm, time.monotonic() + work.deadline_ms * 1e-3, turns=turns.turns_of(work))
            self._runs[work.work_id] = run
            for office in self._offices:
                office.heard()
            run.task = self._spawn(self._serve(run))

    def turn(self, work_id: int, turn: Turn) -> None:
        """Go on with a shared text; one that has ended needs no more turns."""
        run = self._runs.get(work_id)
        if run is not None and run.turns is not None:
            run.turns.put(turn)

    def cancel(self, work_id: int) -> None:
        """Drop work that waits, stop a text at its next token, discard a tensor's answer."""
        run = self._runs.get(work_id)
        if run is None or run.cancelled:
            return
        run.cancelled = True
        if run.may_be_interrupted and run.task is not None:
            run.task.cancel()

    def order(self, command: m.Keep | m.PersonalOrder | m.ModelOrder) -> None:
        """Keep an input for an owner, do something with an owner's expert, load or unload an expert."""
        match command:
            case m.Keep():
                self._spawn(self._keep(command))
            case m.PersonalOrder():
                self._spawn(self._follow(command))
            case m.ModelOrder():
                if self._resident is not None:
                    key = f"{command.expert}:{command.variant}"
                    self._spawn(self._resident.manage(key, command.verb, ttl_s=command.ttl_s))

    async def _keep(self, command: m.Keep) -> None:
        office = next((one for one in self._offices if one.arm.expert == command.expert), None)
        if office is None:
            return
        try:
            kept = checks.checked_kept(self._task_specs[office.arm.task], command.inputs)
            await office.keep(command.owner, command.request_id, kept)
        except (errors.NodeError, OSError) as error:
            log.warning("input not kept", why=type(error).__name__)

    async def _follow(self, order: m.PersonalOrder) -> None:
        office = next((office for office in self._offices if office.arm.task == order.task), None)
        if office is None:
            report = m.PersonalReport(order.order_id, "PERSONAL_OFF", "This node keeps no personal experts for it.")
        else:
            report = await office.follow(order)
        await self._say(report)

    def refuse_new(self) -> None:
        """From now on new work fails with DRAINING."""
        self._draining = True

    async def finish(self, timeout_s: float | None) -> bool:
        """Wait until all work has its outcome queued; False where some did not finish in time."""
        if not self._open_tasks:
            return True
        _, unfinished = await asyncio.wait(self._open_tasks, timeout=timeout_s)
        return not unfinished

    async def abandon(self) -> None:
        """The session is gone: stop all work, answer nothing."""
        for task in self._open_tasks:
            task.cancel()
        await asyncio.gather(*self._open_tasks, return_exceptions=True)

    async def settled(self, settlements: Sequence[Settlement]) -> None:
        """Tell the gateway the final joules of this stream's work whose first figure was preliminary."""
        known = [(self._unsettled.pop(one.span, None), one.reading) for one in settlements]
        readings = tuple(
            (work_id, outcomes.plus(reading, self._loads.get(work_id)))
            for work_id, reading in known
            if work_id is not None
        )
        if readings:
            await self._say(m.EnergySettled(readings))

    # ---- one piece of work

    async def _serve(self, run: _Run) -> None:
        try:
            outcome = await self._outcome(run)
        except asyncio.CancelledError:
            if not run.cancelled:
                raise
            outcome = outcomes.cancelled(run.work.work_id, self._close(run))
        finally:
            self._close(run)
            del self._runs[run.work.work_id]
        await self._say(outcome)

    async def _outcome(self, run: _Run) -> m.Event:
        work_id = run.work.work_id
        try:
            done = await (self._text(run) if self._task_specs[run.arm.task].text else self._infer(run))
        except errors.NodeError as error:
            log.info("work failed", arm=run.arm.key, work_id=work_id, why=error.message)
            return outcomes.failed(work_id, error, self._close(run))
        except Exception as error:  # The rim: whatever an engine raises, the gateway gets an outcome.
            log.exception("work crashed", arm=run.arm.key, work_id=work_id)
            return outcomes.failed(work_id, error, self._close(run))
        return outcomes.cancelled(work_id, done.energy) if run.cancelled else done

    async def _infer(self, run: _Run) -> m.WorkDone:
        task = self._task_specs[run.arm.task]
        inputs = checks.checked_inputs(task, run.work.input)
        run.macs = run.arm.macs * checks.batch_size(task, inputs)
        job = Job(run.arm.key, inputs, run.start_by_s, lambda: self._open(run))
        result, note = await self._run(run, job)
        done = m.WorkDone(
            work_id=run.work.work_id,
            energy=self._close(run, result.compute_ms) or UNMETERED,
            queue_ms=result.queue_ms,
            compute_ms=result.compute_ms,
            outputs=result.outputs,
            personal=note,
        )
        done = self._with_load(done, run, result.load)
        if weight_bytes(done) > MAX_OUTPUT_BYTES:
            raise errors.EngineError(f"{run.arm.key} answered with more than {MAX_OUTPUT_BYTES} bytes")
        return done

    async def _run(self, run: _Run, job: Job) -> tuple[JobResult, m.PersonalNote | None]:
        """By the owner's expert where there is one that this arm belongs to, by the arm itself otherwise."""
        office, owner = self._personal, run.work.owner
        if office is None or owner is None or not office.answers(run.arm, job):
            return await self._engine.infer(job), None
        return await office.infer(owner, run.work.request_id, job)

    async def _text(self, run: _Run) -> m.WorkDone:
        request = checks.checked_text(self._task_specs[run.arm.task], run.work.input)
        if request.shared is not None:
            turns.check_able(request.shared, run.arm)
        run.stage = PREFILL
        pieces: list[str] = []
        logprobs: list[Mapping[str, Any]] = []
        generated, conclude = await self._written(run, self._text_job(run, request))
        async with aclosing(generated) as stream:
            async for item in stream:
                if isinstance(item, TextEnd):
                    run.macs = item.macs
                    return self._text_done(run, item, text="".join(pieces), logprobs=tuple(logprobs), conclude=conclude)
                self._decoding(run)
                if request.shared is not None:
                    await self._say(turns.written(run.work.work_id, item))
                    continue
                pieces.append(item.text)
                logprobs.extend(item.logprobs)
                if not request.whole:
                    await self._say(m.TextDelta(run.work.work_id, item.text, item.token_ids, item.logprobs))
        raise errors.EngineError(f"{run.arm.key} ended its text without an end")

    async def _written(
        self, run: _Run, job: TextJob
    ) -> tuple[AsyncGenerator[TextPiece | TextEnd], Callable[[TextEnd], m.PersonalNote | None]]:
        """By the owner's expert where there is one that this arm belongs to, by the arm itself otherwise."""
        office, owner = self._personal_texts, run.work.owner
        if office is None or owner is None or office.arm.key != run.arm.key:
            return self._engine.generate(job), lambda _end: None
        return await office.write(owner, run.work.request_id, job)

    def _text_job(self, run: _Run, request: m.TextRequest) -> TextJob:
        profile = self._profiles.get(run.arm.key)
        return TextJob(
            arm=run.arm.key,
            messages=request.messages,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            stop=request.stop,
            energy_limit_j=run.work.energy_limit_j,
            start_by_s=run.start_by_s,
            on_start=lambda: self._open(run),
            cost=profile.text if profile else None,
            extras=request.extras,
            tools_json=request.tools_json,
            tool_choice_json=request.tool_choice_json,
            response_format_json=request.response_format_json,
            whole=request.whole,
            top_logprobs=request.top_logprobs,
            embed=request.embed,
            turns=run.turns,
            min_tokens=0 if request.shared is None else request.shared.min_tokens,
            scope=request.scope,
        )

    def _text_done(
        self,
        run: _Run,
        end: TextEnd,
        *,
        text: str,
        logprobs: tuple[Mapping[str, Any], ...],
        conclude: Callable[[TextEnd], m.PersonalNote | None],
    ) -> m.WorkDone:
        done = m.WorkDone(
            work_id=run.work.work_id,
            energy=self._close(run, end.compute_ms) or UNMETERED,
            queue_ms=end.queue_ms,
            compute_ms=end.compute_ms,
            text=text,
            finish=end.finish,
            prompt_tokens=end.prompt_tokens,
            completion_tokens=end.completion_tokens,
            margin_fraction=end.margin_fraction,
            first_token_ms=end.first_token_ms,
            tool_calls_json=end.tool_calls_json,
            personal=conclude(end),
            logprobs=logprobs,
            cached_tokens=end.cached_tokens,
        )
        return self._with_load(done, run, end.load)

    # ---- joules

    def _with_load(self, done: m.WorkDone, run: _Run, load: LoadTaken | None) -> m.WorkDone:
        """Work that an expert was loaded for pays for that too, as far as anybody knows what it took."""
        if load is None:
            return done
        self._loads[run.work.work_id] = load.energy
        return replace(
            done, load_ms=load.ms, load_j=load.energy.energy_j, energy=outcomes.plus(done.energy, load.energy)
        )

    def _open(self, run: _Run) -> None:
        run.started_s = time.monotonic()
        try:
            run.span = self._meter.begin(run.arm.key, run.stage)
        except errors.EnergySourceMissing as missing:
            log.error("energy source lost", why=missing.message)

    def _close(self, run: _Run, compute_ms: float | None = None) -> EnergyReading | None:
        """End the run's span; None where it never started or has been closed."""
        span, run.span = run.span, None
        if span is None or run.started_s is None:
            return None
        elapsed_ms = (time.monotonic() - run.started_s) * 1e3
        try:
            reading = self._meter.end(span, compute_ms=elapsed_ms if compute_ms is None else compute_ms, macs=run.macs)
        except errors.EnergySourceMissing as missing:
            log.error("energy source lost", why=missing.message)
            return UNMETERED
        if not reading.final:
            self._unsettled[span] = run.work.work_id
        return reading

    def _decoding(self, run: _Run) -> None:
        """The first piece of a text ends its prefill."""
        if run.span is None or run.stage == DECODE:
            return
        run.stage = DECODE
        try:
            self._meter.enter(run.span, DECODE)
        except errors.EnergySourceMissing as missing:
            log.error("energy source lost", why=missing.message)

    # ---- outcomes

    def _refuse(self, work: m.Work, reason: m.Reason) -> None:
        self._spawn(self._say(outcomes.refused(work.work_id, reason)))

    async def _say(self, event: m.Event) -> None:
        try:
            await self._send(event)
        except OutboxClosed:
            log.debug("session over, event dropped", kind=type(event).__name__)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._open_tasks.add(task)
        task.add_done_callback(self._open_tasks.discard)
        return task
