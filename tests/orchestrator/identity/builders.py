"""A registrar with a clock that a test moves, and what nodes bring."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nodes.identity.keys import new_key, request_for
from orchestrator.identity.authority import Authority
from orchestrator.identity.book import Book
from orchestrator.identity.registrar import Registrar

START_UNIX_S = 1_800_000_000.0


class WallClock:
    """Wall time that a test moves."""

    def __init__(self) -> None:
        self.now_unix_s = START_UNIX_S

    def __call__(self) -> float:
        return self.now_unix_s


def a_registrar(folder: Path, clock: WallClock, *, manual: bool = False) -> Registrar:
    """The registrar of this folder; a second one of the same folder is the first after a restart."""
    authority = Authority(folder, clock_unix_s=clock)
    return Registrar(authority, Book(folder / "identity.json"), manual=manual, clock_unix_s=clock, random=os.urandom)


def a_request(name: str = "n1", key: bytes | None = None) -> bytes:
    """What a node of this name sends."""
    return request_for(name, key or new_key())


def parts(text: str) -> dict[str, Any]:
    """A token's text, taken apart."""
    head, _, tail = text.partition("::")
    token_id, _, secret = tail.partition(".")
    return {"authority": head.removeprefix("K10"), "id": token_id, "secret": secret}
