"""Between the requests of the gateway and its ledger: what a route may take is held before it runs, what it took is
charged when it ends, and a repeated request id is answered with what was answered before.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from orchestrator.errors import BudgetExhausted
from orchestrator.execution.run import Decide, Progress, bound_of
from orchestrator.gateway.accounts import Ticket, arms_of
from orchestrator.journal import Entry
from orchestrator.ledger.ledger import Ledger, Terms
from orchestrator.ledger.spenders import NOBODY, Reservation
from orchestrator.routing.route import Decision
from orchestrator.store.memory import MemoryDesk
from orchestrator.store.records import CORRECTED, DAY_TOKENS, IDLE, Settlement
from orchestrator.store.service import InlineStore
from orchestrator.types import NO_ACCOUNT, Account, Energy, Limits, Provenance

Clock = Callable[[], float]


def holder_name() -> str:
    """A name for this life of this gateway."""
    return uuid.uuid4().hex


def forgetful_ledger(clock_unix_s: Clock = time.time) -> Ledger:
    """A ledger that keeps nothing beyond the process."""
    return Ledger(InlineStore(MemoryDesk()), Terms(), holder=holder_name(), clock_unix_s=clock_unix_s)


class Till:
    """Reserves and charges for requests.

    Args:
        ledger: The books; a gateway replaces them when it opens its store.
        clock_unix_s: Wall time, for what is written down.
    """

    def __init__(self, ledger: Ledger, *, clock_unix_s: Clock = time.time) -> None:
        self.ledger = ledger
        self._now = clock_unix_s

    def cap_j(self, ticket: Ticket) -> float:
        """Joules that one request of this payer may take by its quotas; infinite where none says."""
        return self.ledger.request_limit_j(ticket.payer.spender, ticket.task)

    async def secure(
        self, ticket: Ticket, decision: Decision, limits: Limits, *, decide: Decide, tokens: int = 0
    ) -> Progress:
        """Hold what the route may take; where too little is left for it, take the best route that fits what is left.

        Raises:
            BudgetExhausted: Not even the cheapest fits.
            StoreError: The books cannot be kept.
        """
        if not self.ledger.quotas:
            ticket.reservation = Reservation(ticket.payer.spender, ticket.task, math.inf, tokens)
            return Progress(limits, ticket.started_s, decision)
        try:
            reservation = await self._reserve(ticket, decision, tokens)
        except BudgetExhausted as short:
            smaller = self._smaller(decision, limits, short, decide)
            if smaller is None:
                raise
            decision = ticket.decision = smaller
            reservation = await self._reserve(ticket, decision, tokens)
        ticket.reservation = reservation
        progress = Progress(limits, ticket.started_s, decision)
        if reservation.limited and math.isfinite(reservation.energy_j):
            progress.reserved_j = reservation.energy_j
            progress.extend = partial(self.ledger.extend, reservation)
        return progress

    def _reserve(self, ticket: Ticket, decision: Decision, tokens: int) -> Awaitable[Reservation]:
        spender = ticket.payer.spender
        return self.ledger.reserve(spender, ticket.task, energy_j=bound_of(decision), tokens=tokens)

    def _smaller(self, decision: Decision, limits: Limits, short: BudgetExhausted, decide: Decide) -> Decision | None:
        """A route within what is left, if joules are what is short and there is one."""
        if short.unit == DAY_TOKENS or not 0.0 < short.left < bound_of(decision):
            return None
        other = decide(replace(limits, max_energy_j=min(limits.max_energy_j, short.left)), frozenset())
        if other is None or other.route is None or bound_of(other) > short.left:
            return None
        return other

    def account(self, ticket: Ticket, energy: Energy) -> Account:
        """What a request was allowed and charged, once it has ended with all of its attempts' energy."""
        spender, held, progress = ticket.payer.spender, ticket.reservation, ticket.progress
        if held is None:
            return Account(spender.tenant, spender.key_id) if spender is not NOBODY else NO_ACCOUNT
        if held.amounts:
            charged_j = progress.charged_j if progress else 0.0
            return Account(spender.tenant, spender.key_id, held.budgets, held.energy_j, charged_j)
        # Where nothing limits a request and every attempt told, it is charged what they told; else the sum is NaN.
        charged_j = energy.energy_j
        if not charged_j >= 0.0:
            charged_j = progress.charged_j if progress else 0.0
        return Account(spender.tenant, spender.key_id, (), math.inf, charged_j)

    def settle(self, ticket: Ticket, entry: Entry, *, result: bytes | None = None) -> Awaitable[float] | None:
        """Charge what a request took; once, when it has ended.

        Args:
            ticket: The request.
            entry: What became of it.
            result: What a repeated call is answered; None lets it be tried again.

        Returns:
            What must be kept before the reply leaves, giving the joules that are left; None where nobody need wait.
        """
        held, ticket.reservation = ticket.reservation, None
        claim = ticket.payer.claim
        if held is None:
            if claim is not None:
                self.ledger.release(Reservation(ticket.payer.spender, ticket.task, claim=claim))
            return None
        held.claim = claim
        record = self._record(ticket, entry, held)
        return self.ledger.settle(held, record, charge_j=entry.account.charged_j, result=result)

    def correct(self, ticket: Ticket, held: Reservation, *, told: tuple[float, float, float], energy: Energy) -> None:
        """Charge what final joules add to a request that was settled with preliminary ones.

        Args:
            ticket: The request.
            held: Its reservation.
            told: Joules that its work took more than was said; that its budgets are charged more; that they were
                charged before.
            energy: The final figure of the work.
        """
        difference_j, charge_j, before_j = told
        record = Settlement(
            at_unix_s=self._now(),
            request_id=ticket.request_id,
            tenant=held.spender.tenant,
            key_id=held.spender.key_id,
            task=ticket.task,
            outcome=CORRECTED,
            arms="",
            energy_j=difference_j,
            provenance=energy.provenance.value,
            reserved_j=math.inf,
            tokens=0,
        )
        beyond_j = before_j + charge_j - max(before_j, held.energy_j)
        self.ledger.correct(held, record, charge_j=charge_j, beyond_j=beyond_j if held.limited else 0.0)

    def idle(self, node: str, provenance: Provenance, energy_j: float) -> None:
        """Write down joules of a node's idle power."""
        self.ledger.note(
            Settlement(self._now(), "", "", "", "", IDLE, f"idle@{node}", energy_j, provenance.value, math.inf, 0)
        )

    def rested(self, node: str, energy_j: float) -> None:
        """Write down what a node took to sleep and to wake, by what its operator says."""
        modelled = Provenance.MODELLED.value
        self.ledger.note(Settlement(self._now(), "", "", "", "", IDLE, f"wake@{node}", energy_j, modelled, math.inf, 0))

    def _record(self, ticket: Ticket, entry: Entry, held: Reservation) -> Settlement:
        energy, spender = entry.energy, held.spender
        known = energy.provenance is not Provenance.UNMEASURED
        return Settlement(
            self._now(),
            entry.request_id,
            spender.tenant,
            spender.key_id,
            entry.task,
            entry.outcome,
            arms_of(entry.routing),
            energy.energy_j if known else 0.0,
            energy.provenance.word,
            held.energy_j,
            ticket.tokens,
        )
