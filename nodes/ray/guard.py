"""No cluster without token authentication: Ray 2.60 starts with it off, and whoever reaches a port may run anything.

What is believed is not a setting but an attempt: the cluster's head is asked something without a token, and has
to refuse.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import stat
from collections.abc import Mapping, MutableMapping
from enum import Enum
from pathlib import Path
from typing import Any

import grpc

from nodes.ray.errors import ClusterLost, ClusterRefused

AUTH_MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
# Ray replaces a loopback address by one that others can reach, except where it believes not to run on Linux.
LOOPBACK_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
PROBE = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
PROBE_S = 3.0
SHORTEST_TOKEN = 16


class Door(Enum):
    """What a cluster's head does with a call that shows no token."""

    GUARDED = "guarded"
    OPEN = "open"
    SILENT = "silent"


_DOOR = {grpc.StatusCode.OK: Door.OPEN, grpc.StatusCode.UNAUTHENTICATED: Door.GUARDED}


def check_environment(environment: Mapping[str, str]) -> None:
    """Refuse an environment that switches authentication off.

    Raises:
        ClusterRefused: `RAY_AUTH_MODE` says something else than ``token``.
    """
    mode = environment.get(AUTH_MODE, "token")
    if mode.lower() != "token":
        raise ClusterRefused(f"{AUTH_MODE}={mode}: anybody could run code on the cluster", f"set {AUTH_MODE}=token")


def read_token(path: Path) -> str:
    """The token of a file that only its owner can read.

    Raises:
        ClusterRefused: There is none, it is too short, or others can read it.
    """
    try:
        mode, text = path.stat().st_mode, path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        cure = f"`ray get-auth-token --generate` makes one on the head; copy it to {path}, or name it with token_file"
        raise ClusterRefused(f"no token: {path} cannot be read", cure) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ClusterRefused(f"others can read the token in {path}", f"`chmod 600 {path}`, and make another token")
    if len(text) < SHORTEST_TOKEN:
        raise ClusterRefused(f"the token in {path} is shorter than {SHORTEST_TOKEN} characters", "make another one")
    return text


def make_token(path: Path) -> None:
    """Write a new token for its owner only; an existing one stays."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))


def with_token(path: Path, environment: MutableMapping[str, str]) -> None:
    """Have Ray, and whatever is started from here, show the token; only the path is told, not the token.

    Raises:
        ClusterRefused: As in `check_environment` and `read_token`.
    """
    check_environment(environment)
    read_token(path)
    environment.pop(TOKEN, None)
    environment.update({AUTH_MODE: "token", TOKEN_PATH: str(path)})


def knock(target: str, *, timeout_s: float = PROBE_S) -> Door:
    """Ask the head at HOST:PORT something without a token."""
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        asking: Any = channel.unary_unary(PROBE, request_serializer=None, response_deserializer=None)
        code = asking.future(b"", timeout=timeout_s).code()
    return _DOOR.get(code, Door.SILENT)


def check_cluster(target: str) -> None:
    """Refuse a cluster that answers to anybody.

    Raises:
        ClusterRefused: It does.
        ClusterLost: Nobody answers.
    """
    match knock(target):
        case Door.OPEN:
            cure = f"stop it and start it with {AUTH_MODE}=token, see deploy/docs/ray.md"
            raise ClusterRefused(f"the cluster at {target} answers without a token", cure)
        case Door.SILENT:
            raise ClusterLost(f"no Ray cluster answers at {target}", "start its head, or name another address")
        case Door.GUARDED:
            return


def is_loopback(target: str) -> bool:
    """Whether HOST:PORT is on this machine alone."""
    host = target.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
