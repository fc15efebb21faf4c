"""Tokens and members of several gateways, in their PostgreSQL store: whom one takes in or puts out, all do.

One row holds what `Book` holds in a file. Whoever changes it locks the row and reads it first, so that a token is good
once among all gateways; what has changed is kept when the row is. Each gateway answers from what it read last, and
reads again every second (`Identity.follow`). The authority's key is not in the store: who may read the budgets must not
be able to make nodes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psycopg

from orchestrator.identity.book import Book
from orchestrator.identity.errors import IdentityError

# Nothing may take longer: an operator waits, and so do nodes whose certificates run out.
CONNECT_TIMEOUT_S, STATEMENT_TIMEOUT_MS = 2, 2000
# Two gateways that start at once would otherwise both find the table missing.
LOCK = 0x45444758
SCHEMA = """
CREATE TABLE IF NOT EXISTS identity(one boolean PRIMARY KEY DEFAULT true CHECK (one), authority text NOT NULL,
    revision bigint NOT NULL, tree text NOT NULL)
"""
FIRST = "INSERT INTO identity(authority, revision, tree) VALUES(%s, 1, %s) ON CONFLICT DO NOTHING"
READ = "SELECT authority, revision, tree FROM identity"
READ_IF_NEW = "SELECT authority, revision, tree FROM identity WHERE revision <> %s"
KEEP = "UPDATE identity SET revision = revision + 1, tree = %s RETURNING revision"

Row = tuple[str, int, str]
T = TypeVar("T")


class SharedBook(Book):
    """A book in the database. Blocks, so it is used beside the event loop, by one thread at a time.

    Args:
        conninfo: Where the server is, as libpq writes it.
        authority: Fingerprint of this gateway's authority, which must be that of the others.
        file: The book of a gateway that was alone before; what is in it is taken over by the first to come.

    Raises:
        IdentityError: AUTHORITY_DIFFERS, IDENTITY_STORE_FAILED or STORE_CORRUPT.
    """

    shared = True

    def __init__(self, conninfo: str, authority: str, file: Path) -> None:
        super().__init__(file)
        self._conninfo = conninfo
        self._authority = authority
        self._revision = 0
        self._connection: psycopg.Connection[Row] | None = None
        self._reached(self._open)

    def _open(self, connection: psycopg.Connection[Row]) -> None:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
            connection.execute(SCHEMA)
            connection.execute(FIRST, (self._authority, json.dumps(self.tree())))
            self._take(connection.execute(READ).fetchone())

    @contextmanager
    def change(self, now_unix_s: float) -> Generator[None]:
        """See `Book`. What the others have changed since is read first.

        Raises:
            IdentityError: IDENTITY_STORE_FAILED; nothing has changed.
        """
        connection = self._reached(lambda connection: connection)
        before = self.tokens, self.members
        try:
            with connection.transaction():
                self._take(connection.execute(f"{READ} FOR UPDATE").fetchone())
                yield
                self.prune(now_unix_s)
                kept = connection.execute(KEEP, (json.dumps(self.tree()),)).fetchone()
            self._revision = int(kept[0]) if kept else 0
        except psycopg.Error as error:
            self.tokens, self.members = before
            self._leave()
            raise _failed() from error
        except BaseException:
            self.tokens, self.members = before
            raise

    def refresh(self) -> None:
        """Read what others have changed.

        Raises:
            IdentityError: IDENTITY_STORE_FAILED; what was read last stays.
        """
        row = self._reached(lambda connection: connection.execute(READ_IF_NEW, (self._revision,)).fetchone())
        if row is not None:
            self._take(row)

    def _take(self, row: Row | None) -> None:
        if row is None:
            raise _failed()
        authority, self._revision, tree = row
        if authority != self._authority:
            raise IdentityError(
                "AUTHORITY_DIFFERS",
                "The gateways that share this store have another authority; stop this one and copy identity/ca.key and"
                " identity/ca.pem of their state_dir into its own.",
            )
        self.read(tree.encode())

    def _reached(self, work: Callable[[psycopg.Connection[Row]], T]) -> T:
        """Do something on a connection, which is made anew where the last one was lost."""
        try:
            if self._connection is None:
                options = f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={STATEMENT_TIMEOUT_MS}"
                self._connection = psycopg.connect(
                    self._conninfo, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, options=options
                )
            return work(self._connection)
        except psycopg.Error as error:
            self._leave()
            raise _failed() from error

    def _leave(self) -> None:
        connection, self._connection = self._connection, None
        with suppress(psycopg.Error):
            if connection is not None:
                connection.close()


def _failed() -> IdentityError:
    return IdentityError(
        "IDENTITY_STORE_FAILED",
        "The store that the gateways share cannot be reached, so nothing was changed; try again.",
    )
