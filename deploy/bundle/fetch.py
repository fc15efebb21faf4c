"""A file from an address that the user named, with the digest that it must have: nothing is fetched otherwise."""

from __future__ import annotations

import hashlib
import urllib.request
from pathlib import Path, PurePosixPath
from urllib.parse import urldefrag, urlsplit

from deploy.errors import DeployError
from orchestrator.errors import ExitCode

TIMEOUT_S = 60.0
CHUNK_BYTES = 1 << 20
MARK = "sha256="


def is_address(text: str) -> bool:
    """Whether this is an address and not a file."""
    return urlsplit(text).scheme in ("http", "https")


def fetch(address: str, to: Path) -> Path:
    """Fetch ``https://…/FILE#sha256=HEX`` into the folder `to`; the file appears only if it has that digest.

    Raises:
        DeployError: No digest was named, it cannot be fetched, or it is another file.
    """
    url, mark = urldefrag(address)
    if not mark.startswith(MARK):
        cure = f"write {url}#sha256=… with the digest that its publisher names"
        raise DeployError("not fetched", "an address needs the digest of the file", cure, exit_code=ExitCode.USAGE)
    state, file = hashlib.sha256(), to / PurePosixPath(urlsplit(url).path).name
    draft = file.with_name(f"{file.name}.part")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as reply, draft.open("wb") as out:  # noqa: S310 (http, https)
            while chunk := reply.read(CHUNK_BYTES):
                state.update(chunk)
                out.write(chunk)
    except OSError as error:
        raise DeployError("not fetched", f"{url}: {error}", "look at the network, or fetch it yourself") from error
    if state.hexdigest() != mark.removeprefix(MARK).lower():
        draft.unlink()
        why = f"{url} has the digest {state.hexdigest()}"
        raise DeployError("not fetched", why, "compare with what its publisher says")
    return draft.replace(file)
