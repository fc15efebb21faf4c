"""Where files of this user live by the XDG base directory rules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def default_state_dir(environment: Mapping[str, str]) -> Path:
    """Where a gateway's state lives unless it is told otherwise."""
    base = environment.get("XDG_DATA_HOME") or Path(environment.get("HOME", "~")) / ".local" / "share"
    return Path(base).expanduser() / "edgewise"


def local_authority(environment: Mapping[str, str]) -> Path | None:
    """The certificate of the authority of a gateway on this machine, where there is one that we may read."""
    state = environment.get("EDGEWISE_STATE_DIR")
    file = (Path(state) if state else default_state_dir(environment)) / "identity" / "ca.pem"
    try:
        return file if file.is_file() else None
    except OSError:
        return None
