"""Tokens and members in one small file, replaced as a whole before anything that depends on it happens."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.identity.errors import IdentityError
from orchestrator.identity.records import Member, MemberState, Token

VERSION = 1
# How long what is over stays in the lists.
KEEP_S = 86_400.0


class Book:
    """What the gateway knows of tokens and nodes. Not for several processes; see `shared_book` for those.

    Args:
        file: Where it is kept, readable for the gateway's user only.

    Raises:
        IdentityError: STORE_CORRUPT; a gateway that forgot who was revoked must not start.
    """

    # Whether others change it, too.
    shared = False

    def __init__(self, file: Path) -> None:
        self._file = file
        self.tokens: dict[str, Token] = {}
        self.members: dict[str, Member] = {}
        if file.exists():
            self.read(file.read_bytes())

    def read(self, document: bytes) -> None:
        """Take what is in a document for all that is known.

        Raises:
            IdentityError: STORE_CORRUPT.
        """
        try:
            tree = json.loads(document)
            if tree["version"] != VERSION:
                raise ValueError(tree["version"])
            tokens = {entry["token_id"]: Token(**entry) for entry in tree["tokens"]}
            members = {entry["name"]: _member(entry) for entry in tree["members"]}
        except (ValueError, KeyError, TypeError) as error:
            raise IdentityError(
                "STORE_CORRUPT", f"{self._file.name} cannot be read; restore it, or move it away and have nodes rejoin."
            ) from error
        self.tokens, self.members = tokens, members

    @contextmanager
    def change(self, now_unix_s: float) -> Generator[None]:
        """What is changed within is kept when the block has ended, or nothing of it is.

        Cost: one small file and its fsync.
        """
        before = dict(self.tokens), dict(self.members)
        try:
            yield
            self.prune(now_unix_s)
            write_private(self._file, json.dumps(self.tree(), indent=1).encode())
        except BaseException:
            self.tokens, self.members = before
            raise

    def refresh(self) -> None:
        """Read what others have changed; nobody has."""

    def tree(self) -> dict[str, Any]:
        """Everything, as it is written down."""
        return {
            "version": VERSION,
            "tokens": [asdict(token) for token in self.tokens.values()],
            "members": [asdict(member) for member in self.members.values()],
        }

    def prune(self, now_unix_s: float) -> None:
        """Forget what has been over for a day."""
        self.tokens = {name: token for name, token in self.tokens.items() if token.expires_unix_s + KEEP_S > now_unix_s}
        self.members = {
            name: member
            for name, member in self.members.items()
            if member.state is not MemberState.PENDING or member.joined_unix_s + KEEP_S > now_unix_s
        }


def _member(entry: dict[str, Any]) -> Member:
    return Member(**{**entry, "state": MemberState(entry["state"])})


def write_private(file: Path, content: bytes) -> None:
    """Replace a file atomically; only its owner can read it."""
    draft = file.with_name(f"{file.name}.tmp")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
