"""What the gateway does for clients, without any wire: queries in, replies out, every request accounted for once."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from numpy.typing import NDArray

from optimizer.routes.fusion import Fused
from orchestrator.admission import Admission
from orchestrator.budgets import Budgets
from orchestrator.errors import BudgetInfeasible, EdgewiseError, RequestError, Unavailable
from orchestrator.execution.attempt import Attempts
from orchestrator.execution.course import TextEnd
from orchestrator.execution.run import Decide, Runner, total_energy
from orchestrator.execution.text import TextRunner
from orchestrator.fleet.fleet import Fleet
from orchestrator.fleet.session import NodeSession
from orchestrator.gateway import texts
from orchestrator.gateway.accounts import (
    ANYBODY,
    Payer,
    TextReply,
    Ticket,
    left_ms,
    make_reply,
    outcome_of,
    routing_record,
    timings,
)
from orchestrator.gateway.decider import Decider
from orchestrator.gateway.final_joules import FinalJoules
from orchestrator.gateway.idle_joules import IdleJoules
from orchestrator.gateway.placement import ANYWHERE, Place, Placements, among_known, place_of, placement_of
from orchestrator.gateway.publishing import Publishing
from orchestrator.gateway.till import Till, forgetful_ledger
from orchestrator.journal import Entry, Journal
from orchestrator.metrics import Metrics
from orchestrator.outcomes import Outcomes
from orchestrator.pacing import Pacing
from orchestrator.personal.desk import PersonalDesk
from orchestrator.planning.planner import Planner
from orchestrator.probing import Probing
from orchestrator.routing.route import Decision, Wish
from orchestrator.sleep.keeper import SleepKeeper
from orchestrator.types import Arm, BudgetRequest, Delta, Energy, Limits, Query, Reply, TextQuery

Asked = TypeVar("Asked")
Started = TypeVar("Started")
# Makes what a repeated call is answered; None where the client chose no id.
Encode = Callable[[TextReply], bytes] | None

# A node that sleeps may be what a request lacks.
LACKING = (Unavailable, BudgetInfeasible, RequestError)
WAKING_HELPS = {"NO_NODE", "BUDGET_INFEASIBLE", "CAPABILITY_MISSING"}


class Service:
    """The gateway's work.

    Args:
        fleet: Nodes and arms.
        planner: Plans in force.
        budgets: What a request may spend when it does not say.
        admission: The door.
        runner: Runs routed queries.
        journal: What `why` can tell.
        metrics: Counters.
        pacing: Long-run budgets; None keeps their accounts in memory.
        probing: The guard of the gate; None is off.
        outcomes: Writes feedback down; None is off.
        max_experts: Most experts that may run for one request.
        till: Reserves and charges; None keeps no books.
        personal: Users' own experts; None keeps their homes in memory.
        placements: Where whose work may run; None is anywhere.
        keeper: Puts nodes to sleep and wakes them; None makes one without commands.
    """

    def __init__(
        self,
        *,
        fleet: Fleet,
        planner: Planner,
        budgets: Budgets,
        admission: Admission,
        attempts: Attempts,
        max_attempts: int,
        journal: Journal,
        metrics: Metrics,
        max_experts: int,
        pacing: Pacing | None = None,
        probing: Probing | None = None,
        outcomes: Outcomes | None = None,
        till: Till | None = None,
        personal: PersonalDesk | None = None,
        placements: Placements | None = None,
        keeper: SleepKeeper | None = None,
    ) -> None:
        self.fleet = fleet
        self.planner = planner
        self.budgets = budgets
        self.pacing = Pacing(budgets, None) if pacing is None else pacing
        self.probing = Probing() if probing is None else probing
        self.outcomes = Outcomes() if outcomes is None else outcomes
        self.till = Till(forgetful_ledger()) if till is None else till
        self.personal = PersonalDesk(fleet) if personal is None else personal
        self.keeper = SleepKeeper(fleet, self.till) if keeper is None else keeper
        self.arrived: list[Counter[str]] = []
        self.decider = Decider(
            fleet,
            planner,
            budgets=budgets,
            till=self.till,
            pacing=self.pacing,
            probing=self.probing,
            personal=self.personal,
        )
        self.placements = placements or Placements()
        self.admission = admission
        self.attempts = attempts
        self.journal = journal
        self.metrics = metrics
        self.finals = FinalJoules(self.till, journal, metrics=metrics, pacing=self.pacing, board=fleet.board)
        self.idle = IdleJoules(self.till, metrics)
        self.started_s = time.monotonic()
        self._publishing = Publishing(metrics, self.publish)
        self._runner = Runner(fleet.board, attempts, max_attempts=max_attempts)
        self._text_runner = TextRunner(fleet.board, attempts, max_attempts=max_attempts)
        self._max_experts = max_experts

    def tune(self, *, max_attempts: int, max_experts: int) -> None:
        """Change how much may run for one request, for requests that come from now on."""
        self._runner.max_attempts = self._text_runner.max_attempts = max_attempts
        self._max_experts = max_experts

    # ---- tensor queries

    async def infer(
        self, query: Query, payer: Payer = ANYBODY, *, encode: Callable[[Reply], bytes] | None = None
    ) -> Reply:
        """The answer to one query, within its budget.

        Args:
            query: What is asked.
            payer: Who pays.
            encode: Makes what a repeated call is answered, where the client chose the id.

        Raises:
            EdgewiseError: See the catalogue; nothing else.
        """
        ticket = Ticket(query.request_id, query.task.name, time.monotonic(), payer=payer)
        if query.user:
            query = self.personal.claim(query, payer.spender.tenant)
            ticket.owner = query.owner
        try:
            async with self.admission.enter(query.deadline_s):
                ticket.wait_s = time.monotonic() - ticket.started_s
                fused = await self._infer(query, ticket)
        except BaseException as error:
            self._settle(ticket, self.conclude(ticket, outcome_of(error, ticket)))
            raise
        self.outcomes.answered_tensor(query.request_id, next(iter(query.inputs.values())))
        entry = self.conclude(ticket, "answered")
        note = ticket.progress.personal if ticket.progress is not None else None
        if query.owner is not None:
            self.personal.answered(query.owner, query, note)
        needs_feedback = note is not None and note.needs_feedback
        reply = make_reply(query, fused, entry, needs_feedback=needs_feedback) if encode else None
        kept = self._settle(ticket, entry, result=encode(reply) if encode and reply else None)
        left_j = math.inf if kept is None else await kept
        return make_reply(query, fused, entry, needs_feedback=needs_feedback, left_j=left_j)

    async def _infer(self, query: Query, ticket: Ticket) -> Fused:
        query = self.placements.bind(query, ticket.payer.spender)
        features_f = next(iter(query.inputs.values())).reshape(-1)
        board, most, where = self.fleet.board, query.max_experts or self._max_experts, placement_of(query)

        def ask(budget: BudgetRequest) -> tuple[Place, Wish, Decision, Limits]:
            place = place_of(query, board)
            wish, shape = Wish(query.expert, query.fusion, most, place.unfit), place.shape
            return (
                place,
                wish,
                *self.decider.decide(ticket, features_f, budget, deadline_s=query.deadline_s, wish=wish, shape=shape),
            )

        def suits(arm: Arm) -> bool:
            return query.expert in (None, arm.expert) and where.allows(arm)

        for counted in self.arrived:
            counted[ticket.task] += 1
        try:
            place, wish, decision, limits = ask(query.budget)
        except LACKING as cause:
            place, wish, decision, limits = await self._roused(ticket, query, ask, suits, cause)
        limits = ticket.limits or limits
        retry = self.decider.again(query.task, features_f, wish, pace=decision.pace, shape=place.shape)
        again = self._placed(query, retry)
        progress = ticket.progress = await self.till.secure(ticket, decision, limits, decide=again)
        return await self._runner.run(query, progress, again)

    def _placed(self, query: Query | TextQuery, again: Decide) -> Decide:
        """What is decided again keeps to where the query may run."""
        return again if placement_of(query) is ANYWHERE else among_known(again, self.fleet.board)

    async def _roused(
        self,
        ticket: Ticket,
        query: Query | TextQuery,
        ask: Callable[[BudgetRequest], Asked],
        suits: Callable[[Arm], bool],
        cause: EdgewiseError,
    ) -> Asked:
        """What `ask` decides once somebody whose arm `suits` was woken; the ticket keeps the limits it came with.

        Raises:
            EdgewiseError: The cause, where waking does not help.
        """
        if not self.fleet.dormitory.sleepers or cause.reason not in WAKING_HELPS:
            raise cause
        limits = ticket.limits or self.decider.limit(ticket, query.budget, query.deadline_s)
        await self.keeper.rouse(ticket.task, suits, limits=limits, left_ms=left_ms(limits, ticket), cause=cause)
        if ticket.charge is not None:
            self.pacing.settle(ticket.task, ticket.charge, 0.0)
            ticket.charge = None
        try:
            return ask(replace(query.budget, max_latency_ms=max(0.0, left_ms(limits, ticket))))
        finally:
            ticket.limits = limits

    # ---- text queries

    async def generate(
        self, query: TextQuery, payer: Payer = ANYBODY, *, encode: Encode = None
    ) -> AsyncIterator[Delta | TextReply]:
        """Pieces of text as they come, then the end with joules and routing; arguments as of `infer`.

        Raises:
            EdgewiseError: See the catalogue; nothing else.
        """
        ticket = Ticket(query.request_id, query.task.name, time.monotonic(), payer=payer)
        end: TextEnd | None = None
        try:
            async with self.admission.enter(query.deadline_s):
                ticket.wait_s = time.monotonic() - ticket.started_s
                query, pieces = await self._generate(query, ticket, self._text_runner.run)
                async for piece in pieces:
                    if isinstance(piece, TextEnd):
                        end = piece
                    else:
                        if ticket.first_token_ms is None and not query.whole:
                            ticket.first_token_ms = (time.monotonic() - ticket.started_s) * 1000.0
                        yield piece
            if end is not None:
                ticket.spoke(query, end)
            if end is not None and query.owner is not None:
                # Where the key's work is bound to nodes, so is the copy of the question.
                self.personal.answered(query.owner, query, end.personal)
        except BaseException as error:
            self._settle(ticket, self.conclude(ticket, outcome_of(error, ticket)))
            raise
        if end is None:
            self._settle(ticket, self.conclude(ticket, "answered"))
            return
        reply, kept = self._written(query, ticket, end, encode)
        yield reply if kept is None else replace(reply, account=reply.account.after(await kept))

    async def complete(self, query: TextQuery, payer: Payer = ANYBODY, *, encode: Encode = None) -> TextReply:
        """The end alone of a text that nobody reads before it: `generate` without what passing pieces on costs."""
        ticket = Ticket(query.request_id, query.task.name, time.monotonic(), payer=payer)
        entered_s = ticket.started_s
        try:
            if not self.admission.take():
                await self.admission.acquire(query.deadline_s)
                entered_s = time.monotonic()
                ticket.wait_s = entered_s - ticket.started_s
            try:
                query, ending = await self._generate(query, ticket, self._text_runner.end)
                end = await ending
                await self.admission.aside()
            finally:
                self.admission.release(time.monotonic() - entered_s)
            if query.owner is not None:
                self.personal.answered(query.owner, query, end.personal)
        except BaseException as error:
            self._settle(ticket, self.conclude(ticket, outcome_of(error, ticket)))
            raise
        reply, kept = self._written(query, ticket, end, encode)
        return reply if kept is None else replace(reply, account=reply.account.after(await kept))

    def _written(
        self, query: TextQuery, ticket: Ticket, end: TextEnd, encode: Encode
    ) -> tuple[TextReply, Awaitable[float] | None]:
        """Account for a text that has ended; its reply, and what must be kept before that leaves (`Till.settle`)."""
        self.outcomes.answered_text(query)
        entry = self.conclude(ticket, "answered")
        ticket.tokens = end.prompt_tokens + end.completion_tokens
        profile = "" if entry.limits is None else entry.limits.profile
        reply = TextReply(query.request_id, end, entry.energy, entry.routing, entry.timings, entry.account, profile)
        return reply, self._settle(ticket, entry, result=encode(reply) if encode else None)

    async def _generate(
        self, query: TextQuery, ticket: Ticket, start: Callable[..., Started]
    ) -> tuple[TextQuery, Started]:
        """The query as its tenant may ask it, and what `start` (of the runner) makes of it."""
        await self.admission.aside()
        query = self.placements.bind(query, ticket.payer.spender)
        if query.user:
            query = self.personal.claim(query, ticket.payer.spender.tenant)
        prompt = texts.features(query)
        for counted in self.arrived:
            counted[ticket.task] += 1
        try:
            demand, wish, decision, limits = self._asked(query, ticket, prompt, query.budget)
        except LACKING as cause:
            ask, suits = partial(self._asked, query, ticket, prompt), partial(texts.suits, query)
            demand, wish, decision, limits = await self._roused(ticket, query, ask, suits, cause)
        limits = ticket.limits or limits
        retry = self.decider.again(query.task, prompt, wish, pace=decision.pace, shape=demand.shape)
        again = self._placed(query, retry)
        ticket.tokens = tokens = texts.most_tokens(demand.reading)
        progress = await self.till.secure(ticket, decision, limits, decide=again, tokens=tokens)
        ticket.progress = progress
        confidence = partial(texts.confidence_of, ticket.plan, query)
        return query, start(demand.reading, progress, again, confidence=confidence, figures=demand.figures)

    def _asked(
        self, query: TextQuery, ticket: Ticket, prompt: NDArray[Any], budget: BudgetRequest
    ) -> tuple[texts.Demand, Wish, Decision, Limits]:
        demand, most = self.decider.demand(query), query.max_experts or self._max_experts
        wish, shape = Wish(query.expert, query.fusion, most, demand.place.unfit, texts=True), demand.shape
        decided = self.decider.decide(ticket, prompt, budget, deadline_s=query.deadline_s, wish=wish, shape=shape)
        return demand, wish, *decided

    def answered_from_cache(self, query: TextQuery, payer: Payer) -> None:
        """A request was answered without any work: it is in journal, metrics and log, and cost nothing."""
        self.conclude(Ticket(query.request_id, query.task.name, time.monotonic(), payer=payer), "cached")

    def feedback(self, request_id: str, score: float, tenant: str | None = None) -> bool:
        """How good a finished request's answer was; written down, and true where the guard of the gate took it.

        Raises:
            RequestError: REQUEST_NOT_FOUND.
        """
        self.outcomes.rate(self.journal.get(request_id, tenant), score)
        return self.probing.feedback(request_id, score)

    # ---- accounts

    def conclude(self, ticket: Ticket, outcome: str) -> Entry:
        """Account for a request that has ended: journal, metrics and its one log line."""
        progress, now_s = ticket.progress, time.monotonic()
        attempts = progress.attempts if progress else []
        energy = attempts[0].energy if len(attempts) == 1 else total_energy(attempts)
        if ticket.charge is not None:
            self.pacing.settle(ticket.task, ticket.charge, energy.energy_j)
        spent = timings(ticket, now_s)
        entry = Entry(
            ticket.request_id,
            ticket.task,
            outcome,
            ticket.limits,
            ticket.decision,
            routing_record(ticket, energy, spent),
            energy,
            spent,
            now_s,
            self.till.account(ticket, energy),
        )
        self.journal.add(entry)
        self._publishing.add(entry, progress)
        return entry

    def _settle(self, ticket: Ticket, entry: Entry, *, result: bytes | None = None) -> Awaitable[float] | None:
        """See `Till.settle`; joules that a late sensor will correct are noted first."""
        if entry.energy.preliminary:
            self.finals.expect(ticket, entry, ticket.reservation)
        return self.till.settle(ticket, entry, result=result)

    def take_finals(self, finals: Sequence[tuple[int, Energy]]) -> None:
        """Final joules of works whose first figures were preliminary."""
        # Counters must have seen the preliminary attempts first.
        self.publish()
        self.finals.settle(finals)

    def take_idle(self, session: NodeSession, sum_j: float) -> None:
        """The running sum of a node's idle joules."""
        self.idle.told(session, sum_j)

    def publish(self) -> None:
        """Count and log what has ended since the last time."""
        self._publishing.flush()
        self.finals.expire()
        self.pacing.keep(time.monotonic())
