"""Everything that is kept of a user is sealed with that user's own key, and forgotten by destroying it.

AES-256-GCM; the role of a file is authenticated with it, so that one cannot stand in for another. The key lies in a
file that only the node's user can read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path
from typing import Protocol

from nodes.errors import NodeError

KEY_BYTES = 32
NONCE_BYTES = 12
KEY_FILE = "key"


class Unsealed(NodeError):
    """A sealed file is damaged, or of another user or role."""


class Seal(Protocol):
    """Closes and opens bytes; the tests bring one that does nothing, which the canary scan must notice."""

    def close(self, data: bytes, role: str) -> bytes:
        """The bytes, sealed for a role."""
        ...

    def open(self, data: bytes, role: str) -> bytes:
        """The bytes again.

        Raises:
            Unsealed: They are damaged or were sealed for another role.
        """
        ...


class KeySeal:
    """AES-256-GCM with one key.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        # Part of the node's extra; only nodes that personalise import it.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM(key)

    def close(self, data: bytes, role: str) -> bytes:
        """See `Seal`."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, data, role.encode())

    def open(self, data: bytes, role: str) -> bytes:
        """See `Seal`."""
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], role.encode())
        except (InvalidTag, ValueError) as error:
            raise Unsealed(f"what is kept as {role} is damaged or not this user's") from error


def owner_mark(tenant: str, user: str) -> str:
    """The folder's name of a user of a tenant: two different pairs never share one, and it tells neither."""
    lengths = f"{len(tenant)}:{tenant}{len(user)}:{user}"
    return hashlib.sha256(lengths.encode()).hexdigest()[:32]


def owner_key(folder: Path) -> bytes:
    """The user's key, made where there is none."""
    file = folder / KEY_FILE
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        # Written under another name first: a key file is whole or not there.
        fresh = folder / f"{KEY_FILE}.new"
        _write(fresh, os.urandom(KEY_BYTES))
        os.link(fresh, file)
    (folder / f"{KEY_FILE}.new").unlink(missing_ok=True)
    key = file.read_bytes()
    if len(key) != KEY_BYTES:
        raise Unsealed("the user's key file is damaged")
    return key


def destroy(folder: Path) -> None:
    """Overwrite the key, then remove everything: what a disk still holds of it opens no more."""
    key = folder / KEY_FILE
    if key.exists():
        with key.open("r+b") as stream:
            stream.write(os.urandom(KEY_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        key.unlink()
        sync_folder(folder)
    shutil.rmtree(folder, ignore_errors=True)


def write_whole(file: Path, data: bytes) -> None:
    """Replace a file so that it is the old or the new one at every moment, also after a power loss."""
    fresh = file.with_name(f"{file.name}.new")
    _write(fresh, data)
    fresh.replace(file)
    sync_folder(file.parent)


def _write(file: Path, data: bytes) -> None:
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Have the disk keep the names of a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
