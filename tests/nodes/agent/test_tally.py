"""An agent's own sum of joules: every outcome once, final figures only, to the last digit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nodes.agent import messages as m
from nodes.agent.outbox import OutboxClosed
from nodes.agent.tally import Tally
from nodes.energy.contract import EnergyReading, Provenance


def reading(energy_j: float | None, *, final: bool = True) -> EnergyReading:
    return EnergyReading(energy_j, 0.0, Provenance.MODELLED, "profile:laptop-cpu", final=final)


def done(work_id: int, energy: EnergyReading) -> m.WorkDone:
    return m.WorkDone(work_id=work_id, energy=energy, queue_ms=0.0, compute_ms=1.0)


def test_answers_and_failures_are_counted_with_what_they_took() -> None:
    tally = Tally()
    tally.count(done(1, reading(0.25)))
    tally.count(m.WorkFailed(2, m.Reason.ENGINE_DIED, "gone", False, reading(0.5)))
    tally.count(m.WorkFailed(3, m.Reason.NODE_BUSY, "never begun", False, None))
    tally.count(m.Draining("leaves"))
    assert (tally.works, tally.unmeasured, tally.energy_j) == (2, 0, 0.75)


def test_a_preliminary_figure_counts_once_and_as_it_was_settled() -> None:
    tally = Tally()
    tally.count(done(1, reading(9.0, final=False)))
    assert (tally.works, tally.energy_j) == (0, 0.0)
    tally.count(m.EnergySettled(((1, reading(2.0)),)))
    assert (tally.works, tally.energy_j) == (1, 2.0)


def test_what_nobody_knows_is_told_and_not_taken_for_nothing() -> None:
    tally = Tally()
    tally.count(done(1, reading(None)))
    assert (tally.works, tally.unmeasured, tally.energy_j) == (1, 1, 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_no_digit_is_lost_over_many(seed: int) -> None:
    energies_j = (10.0 ** np.random.default_rng(seed).uniform(-9, 3, 20_000)).tolist()
    tally, plain_j = Tally(), 0.0
    for number, energy_j in enumerate(energies_j):
        tally.count(done(number, reading(energy_j)))
        plain_j += energy_j
    exact_j = math.fsum(energies_j)
    assert tally.energy_j == pytest.approx(exact_j, rel=3e-16)
    assert plain_j != exact_j


async def test_an_event_that_was_not_queued_is_not_counted() -> None:
    tally, sent = Tally(), list[m.Event]()

    async def send(event: m.Event) -> None:
        if sent:
            raise OutboxClosed
        sent.append(event)

    counting = tally.counting(send)
    await counting(done(1, reading(0.5)))
    with pytest.raises(OutboxClosed):
        await counting(done(2, reading(0.5)))
    assert tally.summary() == {"works": 1, "unmeasured": 0, "work_j": 0.5}
