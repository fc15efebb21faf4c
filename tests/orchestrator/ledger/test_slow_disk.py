"""The ledger over a disk that is slow or full: whoever waits may leave, and nothing is lost or counted twice."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from orchestrator.ledger.ledger import Ledger, Terms
from orchestrator.ledger.postings import BRIEF_ROWS, Postings
from orchestrator.ledger.spenders import NOBODY
from orchestrator.store.errors import StoreFull
from orchestrator.store.records import FLEET, Quota
from orchestrator.store.service import GroupCommitStore
from tests.orchestrator.ledger.test_ledger import Wall, record, settle
from tests.orchestrator.store.test_service import SlowDesk


async def slow(*, transactions: int, day_j: float = 10.0) -> tuple[SlowDesk, Ledger]:
    """A ledger whose disk takes so many transactions, and then waits."""
    desk = SlowDesk()
    ledger = Ledger(GroupCommitStore(desk), Terms(), holder="a", clock_unix_s=Wall())
    desk.gate.release(transactions)
    await ledger.start()
    await ledger.put_quota(FLEET, Quota(day_j=day_j))
    return desk, ledger


async def begin_and_leave(asking: Coroutine[Any, Any, Any]) -> None:
    """Ask, and leave while the disk has not answered."""
    waiting = asyncio.ensure_future(asking)
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_a_caller_that_leaves_while_it_waits_loses_nothing() -> None:
    desk, ledger = await slow(transactions=3)
    await begin_and_leave(ledger.reserve(NOBODY, "digits", energy_j=9.0))
    desk.gate.release(99)
    await ledger.store.run(lambda d: None)
    await ledger.reserve(NOBODY, "digits", energy_j=9.0)
    await ledger.close()
    assert [balance.held for balance in desk.balances()] == [pytest.approx(9.0)]


async def test_a_caller_that_leaves_before_its_settlement_is_kept_is_charged_all_the_same() -> None:
    """Also where the disk is full at that moment: what it took is owed and written down later."""
    desk, ledger = await slow(transactions=9)
    reservation = await ledger.reserve(NOBODY, "digits", energy_j=2.0)
    await ledger.store.run(lambda d: None)
    desk.error = StoreFull()
    await begin_and_leave(settle(ledger, reservation, 1.5))
    desk.gate.release(99)
    with pytest.raises(StoreFull):
        await ledger.store.run(lambda d: None)
    assert [balance.spent for balance in desk.balances()] == [0.0]
    desk.error = None
    await ledger.tick()
    assert [balance.spent for balance in desk.balances()] == [1.5]
    await ledger.close()


@pytest.mark.parametrize("full", [True, False])
async def test_what_the_disk_did_not_take_lies_not_ahead(full: bool) -> None:
    """A settlement that holds more ahead in the same step: either both are kept or neither."""
    desk, ledger = await slow(transactions=999, day_j=1000.0)
    first = await ledger.reserve(NOBODY, "digits", energy_j=0.01)
    await ledger.store.run(lambda d: None)
    (before,) = desk.balances()
    # So many that what lies ahead is low: the next settlement asks for more in the same step.
    for _ in range(20):
        await ledger.reserve(NOBODY, "digits", energy_j=0.01)
    desk.error = StoreFull() if full else None
    kept = ledger.settle(first, record(0.01), charge_j=0.01)
    assert kept is not None
    await asyncio.gather(kept, return_exceptions=True)
    desk.error = None
    if full:
        await ledger.tick()
    (balance,) = desk.balances()
    assert (balance.held > before.held) is not full
    assert sum(purse.free + purse.assigned for purse in ledger._wallet.purses.values()) == pytest.approx(balance.held)
    await ledger.close()


class Noted:
    """Stands in for a store and remembers which steps were said to take long."""

    durable = True

    def __init__(self) -> None:
        self.aside: list[bool] = []

    def run(self, step: Any, *, aside: bool = False, **_: Any) -> asyncio.Future[Any]:
        self.aside.append(aside)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future

    async def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("rows", [1, BRIEF_ROWS, BRIEF_ROWS + 1])
async def test_many_rows_that_nobody_waits_for_are_written_aside(rows: int) -> None:
    store = Noted()
    postings = Postings(store, "a")
    for _ in range(rows):
        postings.write_behind(record())
    postings.flush()
    assert store.aside == [rows > BRIEF_ROWS]
