"""Seals: an HMAC with a key of this node over a compiled file and everything it was made for.

Engines are executable: a file that another machine made, or that anybody changed, must not be deserialised. The key
lies with the node's other secrets and not beside the files, so that a copied cache is a foreign one.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import stat
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from nodes.compile.errors import CompileError

KEY_FILE = "engines.key"
KEY_BYTES = 32


def node_key(folder: Path) -> bytes:
    """The key of this node, made where there is none.

    Raises:
        CompileError: It is not readable, not whole, or readable by others.
    """
    file = folder / KEY_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not file.exists():
            _make(file)
        mode = stat.S_IMODE(file.stat().st_mode)
        key = file.read_bytes()
    except OSError as error:
        raise CompileError(f"{file} cannot be used: {(error.strerror or 'unknown cause').lower()}") from error
    if mode & 0o077:
        raise CompileError(f"{file} can be read by others (mode {mode:o}); delete it, all engines are then made anew")
    if len(key) != KEY_BYTES:
        raise CompileError(f"{file} is not whole; delete it, all engines are then made anew")
    return key


def _make(file: Path) -> None:
    # Written aside and linked: of two processes that make it at once one wins, and nobody reads half of it.
    draft = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(secrets.token_bytes(KEY_BYTES))
        stream.flush()
        os.fsync(stream.fileno())
    try:
        os.link(draft, file)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def seal(key: bytes, about: Mapping[str, Any], files: Mapping[str, Path]) -> str:
    """The HMAC-SHA256 over what the files were made for and every byte of them, hex."""
    mac = hmac.new(key, digestmod=sha256)
    _feed(mac, canonical(about))
    for name in sorted(files):
        content = files[name].read_bytes()
        _feed(mac, name.encode())
        _feed(mac, content)
    return mac.hexdigest()


def canonical(about: Mapping[str, Any]) -> bytes:
    """Equal facts give equal bytes."""
    return json.dumps(about, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _feed(mac: hmac.HMAC, part: bytes) -> None:
    # With its length, so that bytes cannot move from one part into the next.
    mac.update(len(part).to_bytes(8, "little"))
    mac.update(part)
