"""Where a node keeps who it is: its key and certificate in one file, replaced together, and whom it joined."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nodes.identity.errors import IdentityProblem

NODE_FILE, AUTHORITY_FILE, ABOUT_FILE, PENDING_KEY_FILE = "node.pem", "ca.pem", "node.json", "pending.key"
BEGIN_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True)
class NodeIdentity:
    """Who a node is, and the gateway that says so.

    Attributes:
        gateway: HOST:PORT of the nodes' port.
        authority_pem: Certificate of the gateway's authority.
    """

    name: str
    gateway: str
    authority_pem: bytes
    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


def default_root(environment: Mapping[str, str]) -> Path:
    """Folder of all nodes of this user."""
    base = environment.get("XDG_DATA_HOME") or Path(environment.get("HOME", "~")) / ".local" / "share"
    return Path(base).expanduser() / "edgewise" / "node"


def saved_names(root: Path) -> list[str]:
    """Nodes that have joined from here."""
    return sorted(file.parent.name for file in root.glob(f"*/{NODE_FILE}"))


def is_identity(folder: Path) -> bool:
    """Whether a node has joined with this folder."""
    return (folder / NODE_FILE).exists()


def load(folder: Path) -> NodeIdentity:
    """Read an identity.

    Raises:
        IdentityProblem: It is not there or not whole.
    """
    try:
        about = json.loads((folder / ABOUT_FILE).read_bytes())
        key_pem, mark, certificate = (folder / NODE_FILE).read_bytes().partition(BEGIN_CERTIFICATE)
        authority_pem = (folder / AUTHORITY_FILE).read_bytes()
        return NodeIdentity(str(about["name"]), str(about["gateway"]), authority_pem, mark + certificate, key_pem)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IdentityProblem(
            f"{folder} holds no identity of a node ({type(error).__name__}); join again with a new token"
        ) from error


def save(folder: Path, identity: NodeIdentity) -> None:
    """Keep an identity; key and certificate last and at once, so that there is never half of one."""
    make(folder)
    about = {"name": identity.name, "gateway": identity.gateway}
    write_private(folder / ABOUT_FILE, json.dumps(about).encode())
    write_private(folder / AUTHORITY_FILE, identity.authority_pem)
    write_private(folder / NODE_FILE, identity.key_pem + identity.certificate_pem)
    (folder / PENDING_KEY_FILE).unlink(missing_ok=True)


def pending_key(folder: Path, fresh: bytes) -> bytes:
    """The key with which this node asks to join: the one of an attempt that waits for approval, or `fresh`."""
    make(folder)
    file = folder / PENDING_KEY_FILE
    with contextlib.suppress(OSError):
        return file.read_bytes()
    write_private(file, fresh)
    return fresh


def make(folder: Path) -> None:
    """Make the folder, for this user only.

    Raises:
        IdentityProblem: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise IdentityProblem(f"{folder} cannot be made: {(error.strerror or 'unknown cause').lower()}") from error


def write_private(file: Path, content: bytes) -> None:
    """Replace a file atomically; only its owner can read it."""
    draft = file.with_name(f"{file.name}.tmp")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)
