"""Which store a gateway keeps its books in, and how it is opened."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from orchestrator.config import GatewayConfig
from orchestrator.gateway.till import Till, holder_name
from orchestrator.ledger.keys import KeyRing, Role, mint
from orchestrator.ledger.ledger import Ledger, Terms
from orchestrator.metrics import Metrics
from orchestrator.store.contract import Desk
from orchestrator.store.errors import StoreFailed
from orchestrator.store.memory import MemoryDesk
from orchestrator.store.records import Key
from orchestrator.store.service import GroupCommitStore, InlineStore, Store

if TYPE_CHECKING:
    from orchestrator.gateway.app import Gateway
    from orchestrator.gateway.snapshots import Snapshots

events = structlog.get_logger("gateway")

FILE = "ledger.db"
FIRST_KEY_FILE = "admin.key"
DAY_S = 86_400.0


async def open_books(config: GatewayConfig, till: Till, keys: KeyRing, *, metrics: Metrics) -> None:
    """Open the configured store, take a lease, and hand the books to those who keep them.

    A damaged file is replaced by its last good snapshot; what that lost is said.

    Raises:
        StoreError: The store is damaged, in use, full or out of reach.
    """
    ledger = Ledger(await _open_store(config, metrics), _terms(config), holder=holder_name(), clock_unix_s=time.time)
    await ledger.start()
    keys.replace(await ledger.store.run(lambda desk: desk.keys()))
    till.ledger = ledger
    if keys.required and not any(_good_admin(key) for key in keys.all()):
        await _first_key(config.state_dir / FIRST_KEY_FILE, ledger, keys)


def _good_admin(key: Key) -> bool:
    return key.role == Role.ADMIN.value and key.revoked_unix_s is None and key.expires_unix_s is None


async def _first_key(file: Path, ledger: Ledger, keys: KeyRing) -> None:
    """A key for the operator, who could not make one without; in a file that only the gateway's user can read."""
    key, secret = mint("operator", Role.ADMIN, now_unix_s=time.time(), expires_unix_s=None, random=os.urandom)
    await ledger.store.run(lambda desk: desk.put_key(key))
    keys.put(key)
    await asyncio.to_thread(_write_secret, file, secret)
    events.info("keys.first", file=str(file), use=f"EDGEWISE_API_KEY_FILE={file}")


def snapshots_of(gateway: Gateway) -> Snapshots | None:
    """What makes snapshots of a gateway's store; None where it is no file."""
    if gateway.config.ledger.store != "sqlite":
        return None
    from orchestrator.gateway.snapshots import Snapshots

    service, keys = gateway.service, gateway.keys
    return Snapshots(
        gateway.config.state_dir / FILE,
        lambda: gateway.reloader.config.ledger,
        decisive=lambda: (tuple(keys.all()), dict(service.till.ledger.quotas)),
        metrics=service.metrics,
    )


async def keep_books(till: Till, keys: KeyRing) -> None:
    """Renew the lease and follow what other gateways change, until cancelled."""
    await till.ledger.run(lambda found: keys.replace(found))


def _write_secret(file: Path, secret: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(f"{secret}\n")


def _terms(config: GatewayConfig) -> Terms:
    ledger = config.ledger
    return Terms(
        lease_s=ledger.lease_s,
        charge_orphans=ledger.orphans == "charge",
        keep_s=ledger.keep_days * DAY_S,
        shared=ledger.store == "postgres",
    )


async def _open_store(config: GatewayConfig, metrics: Metrics) -> Store:
    if config.ledger.store == "memory":
        return InlineStore(MemoryDesk())
    # A file of ours may be quick enough to be written between two requests; a server may keep us waiting for seconds.
    in_place = config.ledger.store == "sqlite"
    return GroupCommitStore(await asyncio.to_thread(_open_desk, config, metrics), in_place=in_place)


def _open_desk(config: GatewayConfig, metrics: Metrics) -> Desk:
    if config.ledger.store == "postgres":
        # An extra: only who asks for it needs it.
        try:
            from orchestrator.store.postgres import PostgresDesk
        except ModuleNotFoundError as error:
            raise StoreFailed from error
        return PostgresDesk(config.ledger.postgres or "")
    from orchestrator.store.recovery import open_or_recover

    desk, loss = open_or_recover(config.state_dir / FILE)
    if loss is not None:
        metrics.store_recovered = True
        events.error(
            "store.recovered",
            why=loss.why,
            kept=str(loss.kept),
            snapshot=str(loss.snapshot),
            forgotten_s=round(loss.seconds, 1),
            settlements_lost="unknown" if loss.settlements is None else loss.settlements,
            do="compare keys and budgets with what you know: changes of that time are forgotten",
        )
    return desk
