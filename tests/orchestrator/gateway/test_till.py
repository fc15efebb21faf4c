"""What a request is charged, without a gateway around it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from orchestrator.execution.run import Progress, total_energy
from orchestrator.gateway.accounts import Payer, Ticket
from orchestrator.gateway.till import Till, forgetful_ledger
from orchestrator.ledger.spenders import NOBODY, Reservation, Spender
from orchestrator.store.records import DAY_J, FLEET, Meter, Quota
from orchestrator.types import (
    NO_ACCOUNT,
    Account,
    AttemptRecord,
    Energy,
    Limits,
    OnInfeasible,
    Provenance,
)

LIMITS = Limits(math.inf, 1000.0, OnInfeasible.ERROR, "balanced")
ANNE = Spender("anne", "k1")
TOLD = Energy(0.25, Provenance.MEASURED, "rapl")
MORE = Energy(0.1, Provenance.MODELLED, "model")
UNTOLD = Energy(math.nan, Provenance.UNMEASURED, "none")


class Undecided:
    """A decision that may take nothing."""

    promise = None


def ended(*energies: Energy, spender: Spender = ANNE, reservation: Reservation | None = None) -> Ticket:
    attempts = [AttemptRecord("a:x@n", 0, 0.1, energy, 1.0, 1.0, "answered") for energy in energies]
    decision: Any = None
    progress = Progress(LIMITS, 0.0, decision, attempts)
    held = Reservation(spender, "chat", tokens=7) if reservation is None else reservation
    return Ticket("r1", "chat", 0.0, payer=Payer(spender), reservation=held, progress=progress)


@pytest.mark.parametrize(
    "energies", [(), (TOLD,), (UNTOLD,), (TOLD, MORE), (TOLD, UNTOLD), (UNTOLD, UNTOLD), (TOLD, TOLD, MORE)]
)
def test_without_limits_what_was_told_is_charged(energies: tuple[Energy, ...]) -> None:
    ticket = ended(*energies)
    assert ticket.progress is not None
    told_j = math.fsum(energy.energy_j for energy in energies if energy is not UNTOLD)
    account = Till(forgetful_ledger()).account(ticket, total_energy(ticket.progress.attempts))
    assert account == Account("anne", "k1", (), math.inf, told_j)
    assert account.charged_j == ticket.progress.charged_j


def test_with_limits_all_that_was_held_is_charged_where_an_attempt_did_not_tell() -> None:
    meter = Meter(FLEET, DAY_J, 1)
    held = Reservation(ANNE, "chat", 2.0, 7, {meter: 2.0}, ("fleet/day_j",))
    for energies, charged_j in (((TOLD,), 0.25), ((TOLD, UNTOLD), 2.0)):
        ticket = ended(*energies, reservation=held)
        assert ticket.progress is not None
        ticket.progress.reserved_j = 2.0
        account = Till(forgetful_ledger()).account(ticket, total_energy(ticket.progress.attempts))
        assert account == Account("anne", "k1", ("fleet/day_j",), 2.0, charged_j)


def test_what_never_came_so_far_is_charged_nothing() -> None:
    till, nothing = Till(forgetful_ledger()), total_energy([])
    assert till.account(Ticket("r1", "chat", 0.0), nothing) is NO_ACCOUNT
    assert till.account(Ticket("r1", "chat", 0.0, payer=Payer(ANNE)), nothing) == Account("anne", "k1")
    refused = Ticket("r1", "chat", 0.0, reservation=Reservation(NOBODY, "chat"))
    assert till.account(refused, nothing) == Account()


@pytest.mark.parametrize("quotas", [{}, {"tenant:ben": Quota(day_j=1.0)}], ids=["no-quotas", "quotas-of-others"])
async def test_who_nothing_limits_reserves_nothing(quotas: dict[str, Quota]) -> None:
    till = Till(forgetful_ledger())
    for scope, quota in quotas.items():
        await till.ledger.put_quota(scope, quota)
    ticket = Ticket("r1", "chat", 3.0, payer=Payer(ANNE))
    chosen: Any = Undecided()
    progress = await till.secure(ticket, chosen, LIMITS, decide=lambda *_: None, tokens=7)
    assert ticket.reservation == Reservation(ANNE, "chat", tokens=7)
    assert not ticket.reservation.limited
    assert progress == Progress(LIMITS, 3.0, chosen)
