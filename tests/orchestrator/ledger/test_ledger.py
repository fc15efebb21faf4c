"""Reserve, run, settle: budgets hold whoever comes, ids are taken once, a crash is charged and then forgotten."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import pytest

from orchestrator.errors import BudgetExhausted, RequestError
from orchestrator.ledger.ledger import Ledger, Terms
from orchestrator.ledger.spenders import NOBODY, Reservation, Spender, fingerprint
from orchestrator.store.contract import Desk
from orchestrator.store.errors import StoreFull
from orchestrator.store.memory import MemoryDesk
from orchestrator.store.records import DAY_J, DAY_TOKENS, FLEET, Claim, Meter, Quota, Settlement
from orchestrator.store.service import InlineStore, Told

T = TypeVar("T")
ANNE = Spender("anne", "k1")


@dataclass
class Wall:
    now_unix_s: float = 86_400.0 * 20_000

    def __call__(self) -> float:
        return self.now_unix_s


class Bench:
    """A ledger over a desk in memory, on a clock of its own; `restart` is a crash."""

    def __init__(self, terms: Terms | None = None) -> None:
        self.desk = MemoryDesk(undo=True)
        self.wall = Wall()
        self.terms = terms or Terms()
        self.lives = 0

    async def restart(self) -> Ledger:
        self.lives += 1
        ledger = Ledger(InlineStore(self.desk), self.terms, holder=f"life-{self.lives}", clock_unix_s=self.wall)
        await ledger.start()
        return ledger

    def balance(self, scope: str = FLEET, unit: str = DAY_J) -> tuple[float, float]:
        """Held and spent."""
        found = [b for b in self.desk.balances() if (b.meter.scope, b.meter.unit) == (scope, unit)]
        return (sum(b.held for b in found), sum(b.spent for b in found))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def record(energy_j: float = 0.0, tokens: int = 0) -> Settlement:
    return Settlement(1.0, "r", "anne", "k1", "digits", "answered", "x:y@z", energy_j, "modelled", 1.0, tokens)


async def settle(ledger: Ledger, reservation: Reservation, energy_j: float, result: bytes | None = None) -> None:
    kept = ledger.settle(reservation, record(energy_j), charge_j=energy_j, result=result)
    if kept is not None:
        await kept


async def test_without_budgets_nothing_is_held(bench: Bench) -> None:
    ledger = await bench.restart()
    reservation = await ledger.reserve(ANNE, "digits", energy_j=math.inf)
    assert not reservation.limited
    assert math.isinf(reservation.energy_j)
    await settle(ledger, reservation, 3.0)
    assert bench.desk.balances() == []
    ledger.flush()
    assert len(bench.desk.page(0, since_unix_s=0, until_unix_s=9e9, rows=9)) == 1


async def test_every_scope_of_a_request_is_charged(bench: Bench) -> None:
    ledger = await bench.restart()
    scopes = (FLEET, "tenant:anne", "key:k1", "task:digits", "tenant:bert")
    for scope in scopes:
        await ledger.put_quota(scope, Quota(day_j=10.0))
    reservation = await ledger.reserve(ANNE, "digits", energy_j=2.0)
    await settle(ledger, reservation, 1.5)
    assert [bench.balance(scope)[1] for scope in scopes] == [1.5, 1.5, 1.5, 1.5, 0.0]


async def test_tokens_and_joules_have_budgets_of_their_own(bench: Bench) -> None:
    ledger = await bench.restart()
    await ledger.put_quota("tenant:anne", Quota(day_tokens=100))
    reservation = await ledger.reserve(ANNE, "chat", energy_j=math.inf, tokens=80)
    with pytest.raises(BudgetExhausted) as told:
        await ledger.reserve(ANNE, "chat", energy_j=1.0, tokens=30)
    assert (told.value.scope, told.value.unit) == ("tenant:anne", DAY_TOKENS)
    kept = ledger.settle(reservation, record(0.0, tokens=50), charge_j=0.0)
    assert kept is not None
    assert math.isinf(await kept)
    assert bench.balance("tenant:anne", DAY_TOKENS)[1] == 50.0
    await ledger.reserve(ANNE, "chat", energy_j=1.0, tokens=30)


async def test_what_is_not_used_comes_back(bench: Bench) -> None:
    ledger = await bench.restart()
    await ledger.put_quota(FLEET, Quota(day_j=10.0))
    spent = 0.0
    for _ in range(100):
        try:
            reservation = await ledger.reserve(NOBODY, "digits", energy_j=1.0)
        except BudgetExhausted:
            break
        await settle(ledger, reservation, 0.3)
        spent += 0.3
    assert spent >= 9.0
    held, kept = bench.balance()
    assert kept == pytest.approx(spent)
    assert held + kept <= 10.0


async def test_holds_ahead_are_a_small_part_of_the_limit(bench: Bench) -> None:
    ledger = await bench.restart()
    await ledger.put_quota(FLEET, Quota(day_j=100.0))
    reservation = await ledger.reserve(NOBODY, "digits", energy_j=0.01)
    assert 0.01 <= bench.balance()[0] <= 0.01 + 0.02 * 100.0
    await settle(ledger, reservation, 0.01)
    assert bench.balance()[0] <= 2 * 0.02 * 100.0


async def test_a_joule_that_nobody_knows_fits_no_budget(bench: Bench) -> None:
    ledger = await bench.restart()
    await ledger.put_quota(FLEET, Quota(day_j=10.0))
    for unknown in (math.inf, math.nan):
        with pytest.raises(BudgetExhausted):
            await ledger.reserve(NOBODY, "digits", energy_j=unknown)


async def test_an_exhausted_budget_says_what_is_left_and_when_it_is_new(bench: Bench) -> None:
    ledger = await bench.restart()
    await ledger.put_quota("tenant:anne", Quota(day_j=1.0))
    await ledger.reserve(ANNE, "digits", energy_j=0.75)
    await asyncio.sleep(0)
    bench.wall.now_unix_s += 3600.0
    with pytest.raises(BudgetExhausted) as told:
        await ledger.reserve(ANNE, "digits", energy_j=0.5)
    assert told.value.left == pytest.approx(0.25)
    assert told.value.retry_after_s == pytest.approx(23 * 3600.0)
    assert told.value.metadata["resetAt"] == "2024-10-05T00:00:00+00:00"
    bench.wall.now_unix_s += 23 * 3600.0
    await ledger.reserve(ANNE, "digits", energy_j=0.5)


async def test_watts_are_held_per_minute(bench: Bench) -> None:
    ledger = await bench.restart()
    await ledger.put_quota(FLEET, Quota(mean_w=2.0))
    await ledger.reserve(NOBODY, "digits", energy_j=115.0)
    with pytest.raises(BudgetExhausted):
        await ledger.reserve(NOBODY, "digits", energy_j=6.0)
    bench.wall.now_unix_s += 60.0
    await ledger.reserve(NOBODY, "digits", energy_j=6.0)


async def test_the_clock_set_back_refills_nothing(bench: Bench) -> None:
    ledger = await bench.restart()
    await ledger.put_quota(FLEET, Quota(day_j=1.0))
    await settle(ledger, await ledger.reserve(NOBODY, "digits", energy_j=1.0), 1.0)
    bench.wall.now_unix_s += 86_400.0
    await ledger.reserve(NOBODY, "digits", energy_j=1.0)
    bench.wall.now_unix_s -= 86_400.0
    with pytest.raises(BudgetExhausted):
        await ledger.reserve(NOBODY, "digits", energy_j=0.1)


async def test_a_request_may_take_what_the_tightest_quota_says(bench: Bench) -> None:
    ledger = await bench.restart()
    assert math.isinf(ledger.request_limit_j(ANNE, "digits"))
    await ledger.put_quota(FLEET, Quota(request_j=5.0))
    await ledger.put_quota("key:k1", Quota(request_j=2.0))
    assert ledger.request_limit_j(ANNE, "digits") == 2.0
    assert ledger.request_limit_j(NOBODY, "digits") == 5.0


async def test_a_retry_extends_what_is_reserved(bench: Bench) -> None:
    ledger = await bench.restart()
    await ledger.put_quota(FLEET, Quota(day_j=100.0))
    reservation = await ledger.reserve(NOBODY, "digits", energy_j=0.5)
    await asyncio.sleep(0)
    assert ledger.extend(reservation, 0.5)
    assert not ledger.extend(reservation, 50.0)
    assert reservation.energy_j == 1.0
    await settle(ledger, reservation, 0.9)
    assert bench.balance()[1] == 0.9


async def test_beyond_the_reservation_is_charged_and_counted(bench: Bench) -> None:
    ledger = await bench.restart()
    await ledger.put_quota(FLEET, Quota(day_j=10.0))
    await settle(ledger, await ledger.reserve(NOBODY, "digits", energy_j=1.0), 1.25)
    assert bench.balance()[1] == 1.25
    assert ledger.overshoot_max_j == pytest.approx(0.25)


async def test_what_was_never_run_is_released(bench: Bench) -> None:
    ledger = await bench.restart()
    await ledger.put_quota(FLEET, Quota(day_j=10.0))
    ledger.release(await ledger.reserve(NOBODY, "digits", energy_j=10.0))
    await ledger.reserve(NOBODY, "digits", energy_j=10.0)


# ---- crashes


@pytest.mark.parametrize(("charge", "spent"), [(True, 4.0), (False, 0.0)])
async def test_orphans_are_held_for_a_lease_and_then_end(charge: bool, spent: float) -> None:
    bench = Bench(Terms(lease_s=30.0, charge_orphans=charge))
    ledger = await bench.restart()
    await ledger.put_quota(FLEET, Quota(day_j=5.0))
    await ledger.reserve(NOBODY, "digits", energy_j=4.0)
    ledger = await bench.restart()
    with pytest.raises(BudgetExhausted):
        await ledger.reserve(NOBODY, "digits", energy_j=2.0)
    bench.wall.now_unix_s += 31.0
    await ledger.tick()
    held, kept = bench.balance()
    assert held == 0.0
    assert kept == pytest.approx(spent, abs=0.2)


async def test_a_living_gateway_keeps_what_it_holds_however_the_clock_jumps(bench: Bench) -> None:
    ledger = await bench.restart()
    await ledger.put_quota(FLEET, Quota(day_j=10.0))
    reservation = await ledger.reserve(NOBODY, "digits", energy_j=1.0)
    bench.wall.now_unix_s += 3600.0
    await ledger.tick()
    assert bench.balance()[0] >= 1.0
    await settle(ledger, reservation, 0.5)
    assert bench.balance()[1] == 0.5


async def test_closing_leaves_nothing_held(bench: Bench) -> None:
    ledger = await bench.restart()
    await ledger.put_quota(FLEET, Quota(day_j=1000.0))
    await settle(ledger, await ledger.reserve(NOBODY, "digits", energy_j=1.0), 0.5)
    assert bench.balance()[0] > 0.0
    await ledger.close()
    assert bench.balance() == (0.0, 0.5)


async def test_the_store_is_told_how_many_run() -> None:
    heard: list[int] = []

    class Listening(InlineStore):
        def run(
            self, step: Callable[[Desk], T], *, others: int = 0, aside: bool = False, told: Told | None = None
        ) -> asyncio.Future[T]:
            heard.append(others)
            return super().run(step, told=told)

    ledger = Ledger(Listening(MemoryDesk(undo=True)), Terms(), holder="a", clock_unix_s=Wall())
    await ledger.put_quota(FLEET, Quota(day_j=10.0))
    held = [await ledger.reserve(NOBODY, "digits", energy_j=0.1) for _ in range(4)]
    ledger.release(held[0])
    heard.clear()
    for reservation in held[1:]:
        await settle(ledger, reservation, 0.05)
    assert heard == [2, 1, 0]


async def test_no_reservation_without_a_store(bench: Bench) -> None:
    class Full(MemoryDesk):
        def reserve(self, holder: str, wants: object) -> None:
            raise StoreFull

    ledger = Ledger(InlineStore(Full()), Terms(), holder="a", clock_unix_s=Wall())
    await ledger.put_quota(FLEET, Quota(day_j=10.0))
    with pytest.raises(StoreFull):
        await ledger.reserve(NOBODY, "digits", energy_j=1.0)


async def test_old_windows_are_given_back(bench: Bench) -> None:
    ledger = await bench.restart()
    await ledger.put_quota(FLEET, Quota(day_j=100.0))
    await settle(ledger, await ledger.reserve(NOBODY, "digits", energy_j=0.1), 0.1)
    assert bench.balance()[0] > 0.0
    await asyncio.sleep(0)
    bench.wall.now_unix_s += 86_400.0
    await ledger.tick()
    assert bench.balance()[0] == 0.0


# ---- request ids


async def claim(ledger: Ledger, body: bytes = b"body", spender: Spender = ANNE) -> Claim | bytes:
    mark = fingerprint(spender.tenant, "/Infer", body)
    return await ledger.claim(spender, "r", fingerprint=mark, deadline_s=5.0)


async def test_an_id_runs_once_and_then_answers_the_same(bench: Bench) -> None:
    ledger = await bench.restart()
    taken = await claim(ledger)
    assert isinstance(taken, Claim)
    with pytest.raises(RequestError) as told:
        await claim(ledger)
    assert told.value.reason == "REQUEST_IN_PROGRESS"
    reservation = await ledger.reserve(ANNE, "digits", energy_j=1.0)
    reservation.claim = taken
    await settle(ledger, reservation, 0.5, result=b"answer")
    ledger = await bench.restart()
    assert await claim(ledger) == b"answer"
    with pytest.raises(RequestError) as told:
        await claim(ledger, b"other body")
    assert told.value.reason == "REQUEST_ID_REUSED"
    assert isinstance(await claim(ledger, b"other body", Spender("bert")), Claim)


async def test_a_failed_request_may_be_tried_again(bench: Bench) -> None:
    ledger = await bench.restart()
    for _ in range(2):
        taken = await claim(ledger)
        assert isinstance(taken, Claim)
        reservation = await ledger.reserve(ANNE, "digits", energy_j=1.0)
        reservation.claim = taken
        await settle(ledger, reservation, 0.5)


async def test_a_request_of_a_crashed_gateway_may_be_tried_again_after_its_lease(bench: Bench) -> None:
    await claim(await bench.restart())
    ledger = await bench.restart()
    with pytest.raises(RequestError):
        await claim(ledger)
    bench.wall.now_unix_s += 36.0
    assert isinstance(await claim(ledger), Claim)


def test_fingerprints_do_not_run_together() -> None:
    assert fingerprint("a", "bc", b"d") != fingerprint("ab", "c", b"d")
    assert fingerprint("a", "b", b"") == fingerprint("a", "b", b"")


# ---- balances


async def test_balances_show_open_windows_only(bench: Bench) -> None:
    ledger = await bench.restart()
    await ledger.put_quota(FLEET, Quota(day_j=10.0, mean_w=1.0))
    await settle(ledger, await ledger.reserve(NOBODY, "digits", energy_j=1.0), 0.5)
    assert [(b.meter.unit, b.limit, b.spent) for b in await ledger.balances()] == [
        ("day_j", 10.0, 0.5),
        ("mean_j", 60.0, 0.5),
    ]
    bench.wall.now_unix_s += 60.0
    assert [(b.meter.unit, b.spent) for b in await ledger.balances()] == [("day_j", 0.5), ("mean_j", 0.0)]
    await ledger.put_quota(FLEET, None)
    assert await ledger.balances() == []


def test_a_meter_says_when_it_is_new() -> None:
    assert Meter(FLEET, DAY_J, 1).resets_unix_s == 2 * 86_400.0


async def test_desks_of_the_contract_are_desks(bench: Bench) -> None:
    desk: Desk = bench.desk
    assert desk.durable is False
