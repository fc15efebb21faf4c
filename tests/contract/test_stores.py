"""One suite for every store: what a transaction keeps, that budgets hold, that ids are taken once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy import postgres as server_of
from orchestrator.store.contract import Desk
from orchestrator.store.memory import MemoryDesk
from orchestrator.store.records import (
    DAY_J,
    DAY_TOKENS,
    FLEET,
    Balance,
    Claim,
    Claimed,
    Key,
    Meter,
    Posting,
    Quota,
    Settlement,
    Short,
)
from orchestrator.store.service import transact
from orchestrator.store.sqlite import SqliteDesk

STORES = ("memory", "sqlite", "postgres")
FOREVER = math.inf
ENERGY, TOKENS = Meter(FLEET, DAY_J, 20_000), Meter("tenant:a", DAY_TOKENS, 20_000)

Reopen = Callable[[], Desk]
Rows = list[tuple[int, Settlement]]


@pytest.fixture(scope="session")
def conninfo() -> Iterator[str]:
    """A PostgreSQL server for the whole run."""
    pytest.importorskip("psycopg", reason="NOT RUN on PostgreSQL: pip install 'edgewise[postgres]'")
    if why := server_of.available():
        warnings.warn(f"the store suite was NOT RUN on PostgreSQL: {why}", stacklevel=1)
        pytest.skip(f"NOT RUN on PostgreSQL: {why}")
    with server_of.server() as reached:
        yield reached


@pytest.fixture(params=STORES)
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopen]:
    """Opens the same store, again and again where it is durable; a store that is open already is closed first."""
    opened: list[Desk] = []
    make: Callable[[], Desk]
    if request.param == "memory":
        make = lambda: opened[-1] if opened else MemoryDesk(undo=True)  # noqa: E731
    elif request.param == "sqlite":
        make = lambda: SqliteDesk(tmp_path / "ledger.db")  # noqa: E731
    else:
        make = _postgres(request.getfixturevalue("conninfo"))

    def again() -> Desk:
        if opened:
            opened[-1].close()
        opened.append(make())
        return opened[-1]

    yield again
    for desk in opened:
        desk.close()


def _postgres(conninfo: str) -> Callable[[], Desk]:
    import psycopg

    from orchestrator.store.postgres import PostgresDesk

    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return lambda: PostgresDesk(conninfo)


@pytest.fixture
def desk(reopen: Reopen) -> Desk:
    return reopen()


def settled(number: int = 0, **changed: object) -> Settlement:
    row = Settlement(1.0 + number, f"r{number}", "a", "k", "digits", "answered", "x:y@z", 0.25, "modelled", 0.5, 0)
    return row._replace(**changed)  # type: ignore[arg-type]


def do(desk: Desk, *steps: Callable[[Desk], object]) -> list[object]:
    return transact(desk, steps)


def one(desk: Desk, step: Callable[[Desk], object]) -> object:
    return do(desk, step)[0]


def page(desk: Desk, after: int = 0, *, since_unix_s: float = 0.0, until_unix_s: float = FOREVER) -> Rows:
    return desk.page(after, since_unix_s=since_unix_s, until_unix_s=until_unix_s, rows=3)


def balance(desk: Desk, meter: Meter) -> Balance:
    found = {entry.meter: entry for entry in desk.balances()}
    return found.get(meter, Balance(meter, math.nan, 0.0, 0.0))


def writing(number: int) -> Callable[[Desk], None]:
    return lambda desk: desk.settle(Posting("g1", {}, {}, settled(number)))


def limited(desk: Desk, limit_j: float = 10.0) -> None:
    do(
        desk,
        lambda d: d.put_quota(FLEET, Quota(day_j=limit_j)),
        lambda d: d.put_quota("tenant:a", Quota(day_tokens=100)),
        lambda d: d.renew("g1", 100.0),
        lambda d: d.renew("g2", 200.0),
    )


# ---- budgets


def test_a_reservation_is_held_and_settled(desk: Desk) -> None:
    limited(desk)
    assert one(desk, lambda d: d.reserve("g1", {ENERGY: 4.0, TOKENS: 50.0})) is None
    assert balance(desk, ENERGY) == Balance(ENERGY, 10.0, 0.0, 4.0)
    one(desk, lambda d: d.settle(Posting("g1", {ENERGY: 4.0, TOKENS: 50.0}, {ENERGY: 3.0, TOKENS: 7.0}, settled())))
    assert balance(desk, ENERGY) == Balance(ENERGY, 10.0, 3.0, 0.0)
    assert balance(desk, TOKENS).spent == 7.0
    assert desk.left(ENERGY) == 7.0
    assert desk.left(Meter("key:k", DAY_J, 1)) == math.inf


def test_what_does_not_fit_holds_nothing_anywhere(desk: Desk) -> None:
    limited(desk)
    do(desk, lambda d: d.reserve("g1", {ENERGY: 6.0}))
    short = one(desk, lambda d: d.reserve("g2", {ENERGY: 4.5, TOKENS: 1.0}))
    assert short == Short(ENERGY, 10.0, 4.0)
    assert isinstance(one(desk, lambda d: d.reserve("g2", {TOKENS: 101.0, ENERGY: 1.0})), Short)
    assert balance(desk, ENERGY).held == 6.0
    assert balance(desk, TOKENS).held == 0.0
    assert one(desk, lambda d: d.reserve("g2", {ENERGY: 4.0})) is None


def test_steps_of_one_transaction_see_each_other(desk: Desk) -> None:
    limited(desk)
    answers = do(desk, *[lambda d: d.reserve("g1", {ENERGY: 3.0})] * 4)
    assert [answer is None for answer in answers] == [True, True, True, False]


def test_an_overshoot_is_spent_and_shuts_the_budget(desk: Desk) -> None:
    limited(desk)
    do(
        desk,
        lambda d: d.reserve("g1", {ENERGY: 10.0}),
        lambda d: d.settle(Posting("g1", {ENERGY: 10.0}, {ENERGY: 11.0})),
    )
    assert balance(desk, ENERGY).spent == 11.0
    assert one(desk, lambda d: d.reserve("g1", {ENERGY: 0.0})) == Short(ENERGY, 10.0, -1.0)


def test_a_meter_without_a_limit_takes_everything(desk: Desk) -> None:
    assert one(desk, lambda d: d.reserve("g1", {ENERGY: 1e12})) is None


def test_an_amount_that_is_no_number_never_fits(desk: Desk) -> None:
    limited(desk)
    assert isinstance(one(desk, lambda d: d.reserve("g1", {ENERGY: math.nan})), Short)
    assert isinstance(one(desk, lambda d: d.reserve("g1", {ENERGY: math.inf})), Short)


@pytest.mark.parametrize(("charge", "spent"), [(True, 4.0), (False, 0.0)])
def test_holds_of_the_dead_end_with_their_lease(desk: Desk, charge: bool, spent: float) -> None:
    limited(desk)
    do(desk, lambda d: d.reserve("g1", {ENERGY: 4.0}), lambda d: d.reserve("g2", {ENERGY: 2.0}))
    assert one(desk, lambda d: d.expire(99.0, charge=charge)) == {}
    assert one(desk, lambda d: d.expire(100.0, charge=charge)) == {ENERGY: 4.0}
    assert balance(desk, ENERGY) == Balance(ENERGY, 10.0, spent, 2.0, spent)
    assert one(desk, lambda d: d.expire(150.0, charge=charge)) == {}


def test_holds_without_a_lease_end_at_once(desk: Desk) -> None:
    do(desk, lambda d: d.reserve("g9", {ENERGY: 1.0}))
    assert one(desk, lambda d: d.expire(0.0, charge=True)) == {ENERGY: 1.0}


def test_releases_leave_no_dust(desk: Desk) -> None:
    limited(desk)
    do(desk, *[lambda d: d.reserve("g1", {ENERGY: 0.1})] * 10)
    do(desk, *[lambda d: d.settle(Posting("g1", {ENERGY: 0.1}, {ENERGY: 0.1}))] * 10)
    assert balance(desk, ENERGY).held == 0.0
    assert balance(desk, ENERGY).spent == pytest.approx(1.0, rel=1e-12)


def test_releasing_more_than_is_held_gives_back_what_there_is(desk: Desk) -> None:
    limited(desk)
    do(desk, lambda d: d.reserve("g1", {ENERGY: 1.0}), lambda d: d.reserve("g2", {ENERGY: 1.0}))
    do(desk, lambda d: d.settle(Posting("g1", {ENERGY: 5.0}, {})))
    assert balance(desk, ENERGY).held == 1.0


def test_quotas_are_replaced_and_taken_away(desk: Desk) -> None:
    quota = Quota(request_j=1.0, day_j=2.0, mean_w=3.0, day_tokens=4)
    do(desk, lambda d: d.put_quota("key:k", quota), lambda d: d.put_quota(FLEET, Quota()))
    assert one(desk, lambda d: d.quotas()) == {"key:k": quota, FLEET: Quota()}
    do(desk, lambda d: d.put_quota("key:k", None))
    assert one(desk, lambda d: d.quotas()) == {FLEET: Quota()}


# ---- transactions


def test_a_failed_transaction_keeps_nothing(desk: Desk) -> None:
    limited(desk)
    desk.begin()
    desk.reserve("g1", {ENERGY: 4.0})
    desk.settle(Posting("g1", {}, {ENERGY: 1.0}, settled()))
    desk.put_key(Key("k", b"d" * 32, "a", "client", 1.0))
    desk.rollback()
    assert balance(desk, ENERGY).held == balance(desk, ENERGY).spent == 0.0
    assert page(desk) == []
    assert one(desk, lambda d: d.keys()) == []


def test_everything_is_there_after_reopening(reopen: Reopen) -> None:
    desk = reopen()
    limited(desk)
    key = Key("k", b"d" * 32, "a", "client", 1.0, 9.5, None)
    claim = Claim("a", "r1", b"f" * 32, 50.0)
    do(
        desk,
        lambda d: d.reserve("g1", {ENERGY: 4.0, TOKENS: 3.0}),
        lambda d: d.settle(Posting("g1", {ENERGY: 1.0}, {ENERGY: 0.5}, settled(1))),
        lambda d: d.put_key(key),
        lambda d: d.claim(claim, 1.0),
        lambda d: d.settle(Posting("g1", {}, {}, None, claim, b"answer")),
    )
    before = do(desk, lambda d: d.balances(), lambda d: d.quotas(), lambda d: d.keys(), page)
    desk = reopen()
    after = do(desk, lambda d: d.balances(), lambda d: d.quotas(), lambda d: d.keys(), page)
    assert before == after
    assert after[2] == [key]
    assert one(desk, lambda d: d.claim(claim, 2.0)) == (Claimed.DONE, b"answer")
    assert one(desk, lambda d: d.expire(100.0, charge=True)) == {ENERGY: 3.0, TOKENS: 3.0}


def test_a_posting_writes_down_its_record_and_what_is_noted_beside_it(desk: Desk) -> None:
    one(desk, lambda d: d.settle(Posting("g1", {}, {}, settled(1), noted=[settled(2), settled(3)])))
    assert [row for _, row in page(desk)] == [settled(1), settled(2), settled(3)]
    one(desk, lambda d: d.settle(Posting("g1", {}, {}, noted=[settled(4)])))
    assert [row for _, row in page(desk, after=page(desk)[-1][0])] == [settled(4)]


# ---- keys and requests


def test_keys_are_kept_and_replaced(desk: Desk) -> None:
    key = Key("k", bytes(range(32)), "a", "client", 1.0)
    revoked = Key("k", bytes(range(32)), "a", "client", 1.0, None, 7.0)
    do(desk, lambda d: d.put_key(key))
    assert one(desk, lambda d: d.keys()) == [key]
    do(desk, lambda d: d.put_key(revoked))
    assert one(desk, lambda d: d.keys()) == [revoked]


def test_an_id_is_taken_once(desk: Desk) -> None:
    claim = Claim("a", "r", b"f" * 32, 10.0)
    other = Claim("a", "r", b"g" * 32, 10.0)
    assert one(desk, lambda d: d.claim(claim, 1.0)) == (Claimed.NEW, b"")
    assert one(desk, lambda d: d.claim(claim, 2.0)) == (Claimed.RUNNING, b"")
    assert one(desk, lambda d: d.claim(other, 2.0)) == (Claimed.REUSED, b"")
    do(desk, lambda d: d.settle(Posting("g1", {}, {}, settled(), claim, b"answer")))
    assert one(desk, lambda d: d.claim(claim, 99.0)) == (Claimed.DONE, b"answer")
    assert one(desk, lambda d: d.claim(other, 99.0)) == (Claimed.REUSED, b"")
    assert one(desk, lambda d: d.claim(Claim("b", "r", b"g" * 32, 10.0), 1.0)) == (Claimed.NEW, b"")


def test_a_claim_without_a_result_is_void_after_its_time(desk: Desk) -> None:
    claim = Claim("a", "r", b"f" * 32, 10.0)
    do(desk, lambda d: d.claim(claim, 1.0))
    assert one(desk, lambda d: d.claim(Claim("a", "r", b"f" * 32, 30.0), 11.0)) == (Claimed.NEW, b"")
    assert one(desk, lambda d: d.claim(claim, 12.0)) == (Claimed.RUNNING, b"")


def test_a_dropped_claim_may_be_taken_again(desk: Desk) -> None:
    claim = Claim("a", "r", b"f" * 32, 10.0)
    do(desk, lambda d: d.claim(claim, 1.0), lambda d: d.settle(Posting("g1", {}, {}, None, claim)))
    assert one(desk, lambda d: d.claim(Claim("a", "r", b"g" * 32, 10.0), 1.0)) == (Claimed.NEW, b"")


def test_sql_in_names_stays_text(desk: Desk) -> None:
    hostile = "'; DROP TABLE settlements; --\0"[:-1]
    claim = Claim(hostile, hostile, b"f" * 32, 10.0)
    do(desk, lambda d: d.claim(claim, 1.0), lambda d: d.settle(Posting(hostile, {}, {}, settled(tenant=hostile))))
    assert one(desk, lambda d: d.claim(claim, 2.0)) == (Claimed.RUNNING, b"")
    ((_, row),) = page(desk)
    assert row.tenant == hostile


# ---- history


def test_pages_follow_each_other(desk: Desk) -> None:
    do(desk, *map(writing, range(7)))
    ids: list[str] = []
    after = 0
    while rows := page(desk, after):
        ids += [row.request_id for _, row in rows]
        after = rows[-1][0]
    assert ids == [f"r{n}" for n in range(7)]
    assert [row.request_id for _, row in page(desk, since_unix_s=3.0, until_unix_s=5.0)] == ["r2", "r3"]


def test_pruning_forgets_the_old(desk: Desk) -> None:
    limited(desk)
    claim = Claim("a", "r", b"f" * 32, 3.0)
    old, young = Meter(FLEET, DAY_J, 0), Meter(FLEET, DAY_J, 1)
    do(desk, *map(writing, range(5)))
    do(desk, lambda d: d.claim(claim, 1.0), lambda d: d.settle(Posting("g1", {}, {old: 1.0, young: 1.0})))
    assert one(desk, lambda d: d.prune(3.5, rows=2)) in (2, 3)
    do(desk, lambda d: d.prune(86_400.0, rows=100))
    assert page(desk) == []
    assert one(desk, lambda d: d.claim(claim, 2.0)) == (Claimed.NEW, b"")
    assert [entry.meter for entry in desk.balances()] == [young]


def test_tables_of_a_newer_version_are_left_alone(conninfo: str) -> None:
    """As `tests/orchestrator/store/test_files.py` has it for the file."""
    import psycopg

    from orchestrator.store.errors import StoreNewer
    from orchestrator.store.postgres import VERSION

    make = _postgres(conninfo)
    make().close()
    make().close()
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("UPDATE meta SET value = %s", (str(VERSION + 1),))
    with pytest.raises(StoreNewer, match=f"schema {VERSION + 1}; this Edgewise knows {VERSION}"):
        make()
