"""`edgewise store`: copies of the gateway's books, and which schema they are of. Works on the files of this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.context import Session

if TYPE_CHECKING:
    from orchestrator.store.files import Contents

FILE = click.Path(path_type=Path, dir_okay=False)
POSTGRES = (
    "these books are on a PostgreSQL server; copy them with `pg_dump --format=custom --file=FILE`"
    " and bring them back with `pg_restore --clean`"
)


@click.group(short_help="Back up, restore and migrate the books of a gateway.")
def store() -> None:
    """Back up, restore and migrate the books of a gateway on this machine."""


def _ledger(file: Path | None, state_dir: Path | None) -> Path:
    """The database that the configuration names here."""
    from orchestrator.config_layers import load
    from orchestrator.gateway.opening import FILE as NAME

    config = load(flags={("state_dir",): state_dir} if state_dir else {}, file=file).config
    if config.ledger.store != "sqlite":
        raise click.UsageError(POSTGRES if config.ledger.store == "postgres" else "ledger.store: memory keeps nothing")
    return config.state_dir / NAME


def _existing(ledger: Path) -> Path:
    if not ledger.exists():
        raise click.UsageError(f"there is no store at {ledger}; --state-dir names the gateway's folder")
    return ledger


_CONFIG = click.option("--config", "file", type=FILE, envvar="EDGEWISE_CONFIG", help="Configuration file.")
_STATE = click.option(
    "--state-dir", type=click.Path(path_type=Path, file_okay=False), help="The gateway's folder of lasting state."
)


@store.command()
@click.argument("target", metavar="FILE", type=FILE)
@click.option("--force", is_flag=True, help="Replace FILE.")
@_CONFIG
@_STATE
@click.pass_obj
def backup(session: Session, *, target: Path, force: bool, file: Path | None, state_dir: Path | None) -> None:
    """Copy the books to FILE, also while the gateway runs; every row of the copy is checked."""
    from orchestrator.store.files import copy_store

    ledger = _existing(_ledger(file, state_dir))
    if target.exists() and not force:
        raise click.UsageError(f"{target} exists; choose another name, or --force")
    session.note(f"{target}: {_told(copy_store(ledger, target))}; every row checked")


@store.command()
@click.argument("copy", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@_CONFIG
@_STATE
@click.pass_obj
def restore(session: Session, *, copy: Path, file: Path | None, state_dir: Path | None) -> None:
    """Replace the books by the copy FILE; refused while a gateway runs on them, and what was there is kept.

    What was spent, created or revoked after the copy was made is forgotten.
    """
    from orchestrator.store.errors import StoreFailed
    from orchestrator.store.files import locked, put_in_place, set_aside, verify

    ledger = _ledger(file, state_dir)
    try:
        verify(copy)
    except StoreFailed as error:
        text = f"{copy} cannot be read as a store; a copy is made by `edgewise store backup`, not by cp"
        raise click.UsageError(text) from error
    lock = locked(ledger)
    try:
        kept = set_aside(ledger, "replaced") if ledger.exists() else None
        contents = put_in_place(copy, ledger)
    finally:
        os.close(lock)
    session.note(f"{ledger}: {_told(contents)}" + (f"; what was there is in {kept}" if kept else ""))


@store.command()
@_CONFIG
@_STATE
@click.pass_obj
def migrate(session: Session, *, file: Path | None, state_dir: Path | None) -> None:
    """Bring the books to this version's schema, as the gateway does when it starts; a copy is made before."""
    from orchestrator.store.files import before_migration
    from orchestrator.store.schema import VERSION
    from orchestrator.store.sqlite import SqliteDesk

    ledger = _existing(_ledger(file, state_dir))
    folder = before_migration(ledger, 0).parent
    before = set(folder.glob("*.db"))
    SqliteDesk(ledger).close()
    made = sorted(set(folder.glob("*.db")) - before)
    told = f"migrated to schema {VERSION}; the copy of before is {made[0]}" if made else f"schema {VERSION} already"
    session.note(f"{ledger}: {told}")


def _told(contents: Contents) -> str:
    import time

    newest = contents.newest_unix_s
    until = "" if newest is None else f" until {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(newest))}"
    return f"schema {contents.version}, {contents.settlements} settlements{until}"
