"""The books of one gateway: reserve before anything runs, settle once it has ended, whatever happened to it.

A reservation is an upper bound: the conformal bound of the chosen route, or what `max_tokens` can cost. The node is
told and stops at its next step that can be interrupted, so spent + held <= limit holds at every instant, but for one
such step per running request; what that came to is counted in `overshoot_j`. After a crash, what was held for requests
whose end nobody knows stays held for a lease and is then charged in full.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog

from orchestrator.errors import BudgetExhausted, RequestError
from orchestrator.ledger.allowances import Allowance, Allowances
from orchestrator.ledger.history import pages
from orchestrator.ledger.postings import Postings
from orchestrator.ledger.spenders import Reservation, Spender, amount_of, metered, spends
from orchestrator.ledger.wallet import Wallet
from orchestrator.store.contract import Desk
from orchestrator.store.errors import StoreError
from orchestrator.store.records import (
    DAY_TOKENS,
    Amounts,
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
from orchestrator.store.service import Store

log = structlog.get_logger("ledger")

PRUNE_ROWS = 2000
# How soon what the disk had no room for is tried again, and what other gateways changed is seen.
OWED_S = 2.0
SHARED_S = 3.0


@dataclass(frozen=True)
class Terms:
    """How a ledger is kept.

    Args:
        lease_s: How long holds outlive the gateway that made them.
        charge_orphans: Charge what a crash left open at its bound; False gives it back, though it may have been spent.
        keep_s: How long settlements and results are kept.
        shared: Whether other gateways use the same store, so that quotas and keys are read again from time to time.
    """

    lease_s: float = 30.0
    charge_orphans: bool = True
    keep_s: float = 30.0 * 86_400.0
    shared: bool = False


class Ledger:
    """Reservations and settlements of one gateway.

    Args:
        store: Where they are kept; closed by `close`.
        terms: How.
        holder: Name of this life of this gateway; never used twice.
        clock_unix_s: Wall time.
    """

    def __init__(self, store: Store, terms: Terms, *, holder: str, clock_unix_s: Callable[[], float]) -> None:
        self.store = store
        self.terms = terms
        self.quotas: dict[str, Quota] = {}
        self.overshoot_j = 0.0
        self.overshoot_max_j = 0.0
        self._holder = holder
        self._now = clock_unix_s
        self._wallet = Wallet()
        self._allowances = Allowances()
        self._topping: set[Meter] = set()
        self._open = 0
        self._postings = Postings(store, holder)

    async def start(self) -> None:
        """Take a lease, end the holds of the dead, read the quotas.

        Raises:
            StoreError: The store does not work.
        """
        await self.tick()
        self.quotas = dict(await self.store.run(lambda desk: desk.quotas()))

    async def tick(self) -> None:
        """What must be done every third of a lease: renew, end what died, give back what old windows held."""
        now_unix_s = self._now()
        if self._postings.owed:
            await self._postings.pay_owed()
        old = self._wallet.drop_old(now_unix_s)
        posting = Posting(self._holder, old, {})
        terms = self.terms

        def step(desk: Desk) -> Amounts:
            desk.renew(self._holder, now_unix_s + terms.lease_s)
            desk.settle(posting)
            desk.prune(now_unix_s - terms.keep_s, rows=PRUNE_ROWS)
            return desk.expire(now_unix_s, charge=terms.charge_orphans)

        for meter, amount in (await self.store.run(step, aside=True)).items():
            log.warning("ledger.orphans", scope=meter.scope, unit=meter.unit, held=amount, charged=terms.charge_orphans)
        if terms.shared:
            self.quotas = dict(await self.store.run(lambda desk: desk.quotas()))

    async def run(self, follow_keys: Callable[[Sequence[Key]], None]) -> None:
        """Tick until cancelled; a store that fails is told of, the next tick tries again.

        Args:
            follow_keys: Takes the keys of a store that others change as well.
        """
        while True:
            await asyncio.sleep(self._pause_s())
            try:
                await self.tick()
                if self.terms.shared:
                    follow_keys(await self.store.run(lambda desk: desk.keys()))
            except StoreError as error:
                log.error("ledger.tick_failed", reason=error.reason)

    def _pause_s(self) -> float:
        pause_s = self.terms.lease_s / 3.0
        if self._postings.owed:
            pause_s = min(pause_s, OWED_S)
        return min(pause_s, SHARED_S) if self.terms.shared else pause_s

    async def close(self) -> None:
        """Give back what lies free and close the store; nothing of ours is left for a lease to end."""
        await self._postings.drained()
        free = self._wallet.empty()
        try:
            await self.store.run(lambda desk: desk.settle(Posting(self._holder, free, {})))
        except StoreError as error:
            log.error("ledger.close_failed", reason=error.reason)
        await self.store.close()

    # ---- reserving

    def request_limit_j(self, spender: Spender, task: str) -> float:
        """Joules that one request may take by the quotas; infinite where none says."""
        return self._allowances.of(self.quotas, spender, task, self._now()).request_j if self.quotas else math.inf

    async def reserve(self, spender: Spender, task: str, *, energy_j: float, tokens: int = 0) -> Reservation:
        """Hold what a request may take at most, in every budget that it counts for.

        Cost: nothing without quotas; microseconds while enough is held ahead; otherwise one commit of the store.

        Raises:
            BudgetExhausted: One of the budgets has too little left.
            StoreError: It cannot be kept.
        """
        allowance = self._allowances.of(self.quotas, spender, task, self._now())
        if not allowance.meters:
            return Reservation(spender, task, tokens=tokens)
        wants = self._wants(allowance, energy_j, tokens)
        if self._postings.owed:
            await self._postings.pay_owed()
        if not self._wallet.assign(wants):
            await self._hold(wants)
            self._top_up(wants)
        self._open += 1
        return Reservation(spender, task, energy_j, tokens, wants, allowance.names)

    def extend(self, reservation: Reservation, energy_j: float) -> bool:
        """Raise a running request's reservation by so many joules, if enough is held ahead; never waits."""
        more = {meter: amount_of(meter, energy_j, 0) for meter in reservation.amounts}
        if not self._wallet.assign(more):
            return False
        for meter, amount in more.items():
            reservation.amounts[meter] += amount
        reservation.energy_j += energy_j
        return True

    def _wants(self, allowance: Allowance, energy_j: float, tokens: int) -> dict[Meter, float]:
        wants = {}
        for meter, limit in allowance.meters:
            self._wallet.purse(meter, limit)
            wants[meter] = amount_of(meter, energy_j, tokens)
        return wants

    async def _hold(self, wants: Amounts) -> None:
        """Have the store hold for one reservation what is not held already."""
        drawn = self._wallet.draw(wants)
        rest = {meter: amount - drawn[meter] for meter, amount in wants.items() if not amount <= drawn[meter]}
        holding = self._reserving(rest)
        try:
            short = await asyncio.shield(holding)
        except BaseException:
            self._give_back(drawn)
            # The store may hold the rest all the same: then it lies ready for others.
            holding.add_done_callback(lambda done: self._give_back(rest) if _held(done) else None)
            raise
        if short is not None:
            self._give_back(drawn)
            raise self._exhausted(short)
        self._wallet.take(wants)

    def _exhausted(self, short: Short) -> BudgetExhausted:
        meter = short.meter
        purse = self._wallet.purses.get(meter)
        return BudgetExhausted(
            meter.scope,
            meter.unit,
            limit=short.limit,
            left=max(0.0, short.left) + (purse.free if purse else 0.0),
            resets_unix_s=meter.resets_unix_s,
            now_unix_s=self._now(),
        )

    def _short_ahead(self, meters: Amounts) -> dict[Meter, float]:
        """What should be held ahead and is not, nor asked for already; asked for from now on."""
        if not self._wallet.low(meters):
            return {}
        missing = {m: amount for m, amount in self._wallet.missing(meters).items() if m not in self._topping}
        self._topping |= missing.keys()
        return missing

    def _top_up(self, meters: Amounts) -> None:
        """Have the store hold more ahead; nobody waits for it."""
        missing = self._short_ahead(meters)
        if missing:
            self._reserving(missing, aside=True).add_done_callback(lambda done: self._topped(_held(done), missing))

    def _topped(self, held: bool, amounts: Amounts) -> None:
        self._topping -= amounts.keys()
        if held:
            self._give_back(amounts)

    def _reserving(self, amounts: Amounts, *, aside: bool = False) -> asyncio.Future[Short | None]:
        holding = self.store.run(lambda desk: desk.reserve(self._holder, amounts), others=self._open, aside=aside)
        return self._postings.follow(holding)

    def _give_back(self, amounts: Amounts) -> None:
        """To what lies free; to the store where its window has ended."""
        late = self._wallet.add(amounts)
        if late:
            posting = Posting(self._holder, late, {})
            self._postings.keep([posting])

    # ---- settling

    def settle(
        self, reservation: Reservation, record: Settlement, *, charge_j: float, result: bytes | None = None
    ) -> Awaitable[float] | None:
        """Charge what a request took and give back the rest.

        Args:
            reservation: As it was made.
            record: What is written down.
            charge_j: Joules that its budgets are charged: what it took, its bound where nobody knows.
            result: What a repeated call of the same id is answered; None lets the id be tried again.

        Returns:
            Done once it is kept, with the least joules that any of its budgets has left (infinite where none counts
            joules). The charge stands even if nobody waits. None where no budget and no id depends on it: then it is
            written behind.
        """
        if not reservation.amounts and reservation.claim is None:
            self._postings.write_behind(record)
            return None
        spent = spends(reservation.amounts, charge_j, record.tokens)
        releases = self._wallet.close(reservation.amounts, spent)
        if reservation.limited:
            self._open -= 1
            over_j = max(0.0, charge_j - reservation.energy_j)
            self.overshoot_j += over_j
            self.overshoot_max_j = max(self.overshoot_max_j, over_j)
        posting = Posting(self._holder, releases, spent, record, reservation.claim, result)
        missing = self._short_ahead(spent)
        topped: list[Short | None] = []

        def step(desk: Desk) -> float:
            desk.settle(posting)
            if missing:
                topped.append(desk.reserve(self._holder, missing))
            return least_left_j(desk, spent)

        then = (lambda kept: self._topped(kept and topped == [None], missing)) if missing else None
        return self._postings.keep([posting], step, others=self._open, then=then)

    def correct(self, reservation: Reservation, record: Settlement, *, charge_j: float, beyond_j: float = 0.0) -> None:
        """Charge what a request that was settled took beyond what was said then; negative where it took less.

        Args:
            reservation: As it was made; its meters are charged, in the windows of then.
            record: The correction, written down beside the settlement.
            charge_j: The difference.
            beyond_j: What of it lies beyond the reservation.
        """
        self.overshoot_j += max(0.0, beyond_j)
        self.overshoot_max_j = max(self.overshoot_max_j, beyond_j)
        amounts = {meter: charge_j for meter in reservation.amounts if meter.unit != DAY_TOKENS}
        if amounts:
            self._postings.keep([Posting(self._holder, {}, amounts, record)])
        else:
            self._postings.write_behind(record)

    def note(self, record: Settlement) -> None:
        """Write down what no request took and no budget is charged."""
        self._postings.write_behind(record)

    def release(self, reservation: Reservation) -> None:
        """Give a reservation back of which nothing was spent, and its request id with it."""
        releases = self._wallet.close(reservation.amounts, {})
        self._open -= reservation.limited
        if reservation.claim is not None or any(amount > 0.0 for amount in releases.values()):
            posting = Posting(self._holder, releases, {}, claim=reservation.claim)
            self._postings.keep([posting])

    # ---- request ids

    async def claim(self, spender: Spender, request_id: str, *, fingerprint: bytes, deadline_s: float) -> Claim | bytes:
        """Take a request id for one payload.

        Returns:
            The claim where the request must run; the stored result where it has run.

        Raises:
            RequestError: REQUEST_IN_PROGRESS or REQUEST_ID_REUSED.
            StoreError: It cannot be kept.
        """
        now_unix_s = self._now()
        claim = Claim(spender.tenant, request_id, fingerprint, now_unix_s + deadline_s + self.terms.lease_s)
        verdict, result = await self.store.run(lambda desk: desk.claim(claim, now_unix_s))
        if verdict is Claimed.NEW:
            return claim
        if verdict is Claimed.DONE:
            return result
        if verdict is Claimed.RUNNING:
            raise RequestError("REQUEST_IN_PROGRESS", "A request of this id is under way; call again for its result.")
        raise RequestError(
            "REQUEST_ID_REUSED",
            "This request id was used for another request; choose a fresh one.",
            field="request_id",
        )

    def history(self, since_unix_s: float, until_unix_s: float) -> AsyncIterator[list[Settlement]]:
        """Settlements of a span of time in pages, the oldest first."""
        self._postings.flush()
        return pages(self.store, since_unix_s, until_unix_s)

    def flush(self) -> None:
        """Write now what would be written a little later."""
        self._postings.flush()

    # ---- budgets

    async def balances(self) -> list[Balance]:
        """The meters of the windows that are open now, those without any count as well."""
        now_unix_s = self._now()
        found = {balance.meter: balance for balance in await self.store.run(lambda desk: desk.balances())}
        meters = metered(self.quotas, tuple(sorted(self.quotas)), now_unix_s)
        return [found.get(meter) or Balance(meter, limit, 0.0, 0.0) for meter, limit in meters]

    async def put_quota(self, scope: str, quota: Quota | None) -> None:
        """Set a scope's quota, or take it away with None; holds for requests that come afterwards."""
        await self.store.run(lambda desk: desk.put_quota(scope, quota))
        quotas = {name: kept for name, kept in self.quotas.items() if name != scope}
        self.quotas = quotas if quota is None else {**quotas, scope: quota}


def least_left_j(desk: Desk, meters: Iterable[Meter]) -> float:
    """The least joules that any of the meters has left; infinite where none counts joules."""
    least_j = math.inf
    for meter in meters:
        if meter.unit != DAY_TOKENS:
            least_j = min(least_j, desk.left(meter))
    return least_j


def _held(done: asyncio.Future[Short | None]) -> bool:
    """Whether the store holds what it was asked to."""
    return not done.cancelled() and done.exception() is None and done.result() is None
