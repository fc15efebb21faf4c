"""Which identity a node runs with: the one that was named, one that was saved, or none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nodes.config import default_name
from nodes.errors import ConfigError
from nodes.identity import folder as kept


def with_identity(given: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The settings of a run, completed by the identity that fits them.

    Raises:
        ConfigError: There is neither an identity nor a gateway.
        IdentityProblem: The identity cannot be read.
    """
    folder = _folder(given, environment)
    if folder is None:
        if not given.get("gateway"):
            raise ConfigError("--gateway: name one, or join one: `edgewise node join https://HOST:8420 --token …`")
        return {**given}
    identity = kept.load(folder)
    if given.get("name") not in (None, identity.name):
        raise ConfigError(f"--name: the identity in {folder} is that of {identity.name}; leave it out")
    # Several gateways were named because all of them are wanted; they share one authority.
    several = "," in (given.get("gateway") or "")
    gateway = given["gateway"] if several else identity.gateway
    return {**given, "identity": folder, "name": identity.name, "gateway": gateway}


def _folder(given: Mapping[str, Any], environment: Mapping[str, str]) -> Path | None:
    if given.get("identity") is not None:
        return Path(given["identity"])
    root = kept.default_root(environment)
    names = kept.saved_names(root)
    wanted = given.get("name") or (names[0] if len(names) == 1 else default_name())
    if wanted not in names:
        return None
    gateway = given.get("gateway")
    # On another machine the identity is worth nothing; on the same one its nodes' port is what counts.
    if gateway is None:
        return root / wanted
    host = _host(kept.load(root / wanted).gateway)
    return root / wanted if any(_host(target) == host for target in gateway.split(",")) else None


def _host(target: str) -> str:
    return target.rpartition(":")[0]
