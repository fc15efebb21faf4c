"""Several lives of one ledger on a disk that loses power in the middle of each, and what must be true after each."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from orchestrator.errors import EdgewiseError
from orchestrator.store.contract import Desk
from orchestrator.store.records import DAY_J, FLEET, Meter, Posting, Quota, Settlement
from orchestrator.store.service import Step, transact
from orchestrator.store.sqlite import SqliteDesk
from tests.faults.power import FragileDisk

LIVES = 4
LIMIT_J = 60.0
FLEET_DAY = Meter(FLEET, DAY_J, 0)
CHECKPOINT_PAGES = 20


@dataclass
class Book:
    """What the caller knows: acknowledged settlements by id, and reservations that it was told it has."""

    settled_j: dict[str, float] = field(default_factory=dict)
    open_j: dict[str, float] = field(default_factory=dict)


def outage(seed: int, *, synchronous: str = "FULL") -> str:
    """Lives and deaths of one seed: "ok", or the first thing that was not as it must be."""
    chance, disk, book = random.Random(seed), FragileDisk(), Book()
    for life in range(LIVES):
        try:
            desk = SqliteDesk(Path("ledger.db"), vfs=disk.name, synchronous=synchronous)
        except (EdgewiseError, apsw.Error) as error:
            return f"not opened: {type(error).__name__}"
        connection = desk._connection
        connection.pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
        wrong = _check(desk, book)
        if wrong:
            return wrong
        _live(desk, book, chance, life=life)
        if chance.random() < 0.5:
            desk.begin()
            desk.settle(Posting(f"life-{life}", {}, {FLEET_DAY: 1.0}, _settlement("torn", 1.0)))
        disk.lose_power(chance, abandon=[connection])
    return "ok"


def _check(desk: SqliteDesk, book: Book) -> str:
    """What a restarted gateway must find; then it ends the dead one's reservations."""
    found = {row.request_id: row.energy_j for row in _history(desk)}
    if any(found.get(name) != energy_j for name, energy_j in book.settled_j.items()):
        return "an acknowledged settlement is lost"
    (held_j, spent_j) = _balance(desk)
    if held_j + spent_j > LIMIT_J * (1.0 + 1e-9):
        return "more is held and spent than allowed"
    if not math.isclose(spent_j, math.fsum(found.values()) + _assumed(desk), abs_tol=1e-9):
        return "the balance is not the sum of what was settled"
    if held_j + 1e-9 < math.fsum(book.open_j.values()):
        return "an acknowledged reservation is lost"
    transact(desk, [lambda d: d.expire(math.inf, charge=False), lambda d: d.put_quota(FLEET, Quota(day_j=LIMIT_J))])
    book.open_j.clear()
    if _balance(desk)[0]:
        return "an orphan reservation was not released"
    if desk._connection.pragma("integrity_check") != "ok":
        return "the database is corrupt"
    return ""


def _live(desk: SqliteDesk, book: Book, chance: random.Random, *, life: int) -> None:
    """Transactions of several steps each; what was committed is noted as acknowledged."""
    holder = f"life-{life}"
    transact(desk, [lambda d: d.renew(holder, float(life))])
    for turn in range(chance.randrange(1, 30)):
        wanted = {f"{life}.{turn}.{n}": chance.uniform(0.01, 1.0) for n in range(chance.randrange(1, 5))}
        answers = transact(desk, [_reserving(holder, amount) for amount in wanted.values()])
        granted = [name for name, answer in zip(wanted, answers, strict=True) if answer is None]
        book.open_j.update({name: wanted[name] for name in granted})
        ending = [name for name in book.open_j if chance.random() < 0.6]
        used = {name: book.open_j[name] * chance.uniform(0.2, 1.0) for name in ending}
        transact(desk, [_settling(holder, name, book.open_j[name], used[name]) for name in ending])
        book.settled_j.update(used)
        for name in ending:
            del book.open_j[name]


def _reserving(holder: str, amount: float) -> Step:
    return lambda desk: desk.reserve(holder, {FLEET_DAY: amount})


def _settling(holder: str, name: str, held: float, used: float) -> Step:
    posting = Posting(holder, {FLEET_DAY: held}, {FLEET_DAY: used}, _settlement(name, used))
    return lambda desk: desk.settle(posting)


def _settlement(name: str, energy_j: float) -> Settlement:
    return Settlement(1.0, name, "a", "k", "digits", "answered", "x:y@z", energy_j, "modelled", energy_j, 0)


def _history(desk: Desk) -> list[Settlement]:
    rows, after = [], 0
    while page := desk.page(after, since_unix_s=0.0, until_unix_s=math.inf, rows=1000):
        rows += [row for _, row in page]
        after = page[-1][0]
    return rows


def _balance(desk: Desk) -> tuple[float, float]:
    balances = [balance for balance in desk.balances() if balance.meter == FLEET_DAY]
    return (balances[0].held, balances[0].spent) if balances else (0.0, 0.0)


def _assumed(desk: Desk) -> float:
    return math.fsum(balance.assumed for balance in desk.balances())


def outages(seeds: Iterable[int], *, synchronous: str = "FULL") -> Counter[str]:
    """What became of each seed, counted."""
    return Counter(outage(seed, synchronous=synchronous) for seed in seeds)
