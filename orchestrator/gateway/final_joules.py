"""Joules that are known only after the answer has left.

A late or coarse sensor shows a piece of work when it has long ended. Its node answers with a preliminary figure and
sends the final one within seconds; by then the request is settled. What differs is charged to the same budgets, and the
counters, the arm's predictions, the long-run account and what `why` tells follow the final figure. Work whose final
figure never comes (its node went away) keeps the preliminary one.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from orchestrator.execution.run import Progress, total_energy
from orchestrator.fleet.arms import ArmBoard
from orchestrator.gateway.accounts import Ticket, budget_met
from orchestrator.gateway.till import Till
from orchestrator.journal import Entry, Journal
from orchestrator.ledger.spenders import Reservation
from orchestrator.metrics import Metrics
from orchestrator.pacing import Pacing
from orchestrator.types import Energy, Provenance

# Nodes settle every two seconds and keep twenty seconds of readings.
WAIT_S = 60.0
MOST_OWED = 16_384


@dataclass(frozen=True)
class Owed:
    """Work whose final joules have not come.

    Args:
        ticket: Its request.
        progress: The request's attempts.
        place: The attempt among them.
        held: The request's reservation, None where nothing was ever reserved.
        until_s: When nobody waits any more.
    """

    ticket: Ticket
    progress: Progress
    place: int
    held: Reservation | None
    until_s: float


class FinalJoules:
    """Work that owes its final joules, by its id.

    Args:
        till: Charges what differs.
        journal: What `why` tells.
        metrics: Counters.
        pacing: Long-run accounts.
        board: Predictions of arms.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        till: Till,
        journal: Journal,
        *,
        metrics: Metrics,
        pacing: Pacing,
        board: ArmBoard,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._till = till
        self._journal = journal
        self._metrics = metrics
        self._pacing = pacing
        self._board = board
        self._clock = clock
        self._owed: OrderedDict[int, Owed] = OrderedDict()

    @property
    def owed(self) -> int:
        """Pieces of work whose final joules have not come."""
        return len(self._owed)

    def expect(self, ticket: Ticket, entry: Entry, held: Reservation | None) -> None:
        """A request has ended; note which of its attempts will be corrected."""
        progress = ticket.progress
        if progress is None or not entry.energy.preliminary:
            return
        until_s = self._clock() + WAIT_S
        for place, attempt in enumerate(progress.attempts):
            if attempt.energy.preliminary:
                self._owed[attempt.work_id] = Owed(ticket, progress, place, held, until_s)
        self.expire()

    def expire(self) -> None:
        """Take the preliminary figure for final where no other came in time."""
        now_s = self._clock()
        while self._owed:
            first = next(iter(self._owed.values()))
            if first.until_s > now_s and len(self._owed) <= MOST_OWED:
                return
            self._owed.popitem(last=False)
            self._conclude(first, first.progress.attempts[first.place].energy)

    def settle(self, finals: Sequence[tuple[int, Energy]]) -> None:
        """Final joules of works, by their ids; ids that nobody waits for are passed over."""
        for work_id, energy in finals:
            owed = self._owed.pop(work_id, None)
            if owed is not None:
                self._conclude(owed, energy)

    def _conclude(self, owed: Owed, energy: Energy) -> None:
        told = owed.progress.attempts[owed.place]
        if energy.provenance is Provenance.UNMEASURED:
            # The sensor failed in between: the preliminary figure is the best there is.
            energy = told.energy
        final = replace(told, energy=replace(energy, preliminary=False))
        difference_j = self._charge(owed, final.energy)
        owed.progress.attempts[owed.place] = final
        self._metrics.measured(final)
        index = self._board.index_of(final.arm)
        if index is not None and final.outcome == "answered":
            self._board.measured(index, final.energy.energy_j)
        if owed.ticket.charge is not None:
            self._pacing.correct(owed.ticket.task, difference_j)
        self._journal.amend(
            owed.ticket.request_id, owed.ticket.payer.spender.tenant, lambda entry: _amended(entry, owed)
        )

    def _charge(self, owed: Owed, energy: Energy) -> float:
        """Charge what differs; returns the difference of the attempt's joules."""
        progress, place = owed.progress, owed.place
        told = progress.attempts[place]
        difference_j = energy.energy_j - told.energy.energy_j
        before_j = progress.charged_j
        progress.attempts[place] = replace(told, energy=energy)
        # What was fixed when another route took over is not summed again.
        charge_j = progress.charged_j - before_j if place >= progress.told_from else difference_j
        if owed.held is not None and math.isfinite(charge_j) and (charge_j or difference_j):
            self._till.correct(owed.ticket, owed.held, told=(difference_j, charge_j, before_j), energy=energy)
        return difference_j


def _amended(entry: Entry, owed: Owed) -> Entry:
    attempts = tuple(owed.progress.attempts)
    energy = total_energy(owed.progress.attempts)
    met = budget_met(owed.progress.limits, energy, entry.timings)
    account = replace(entry.account, charged_j=owed.progress.charged_j)
    routing = replace(entry.routing, attempts=attempts, budget_met=met)
    return replace(entry, routing=routing, energy=energy, account=account)
