"""What was found on a machine, before anything there is changed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from deploy.bundle.wheels import MACHINES
from deploy.errors import DeployError
from deploy.push.ssh import Transport

PROBE = (Path(__file__).parent / "probe.sh").read_text()
OLDEST_PYTHON = (3, 11)
# Certificates are good for 24 h and renewed long before by an agent that runs.
GOOD_S = 23.5 * 3600.0


class Service(StrEnum):
    """Who keeps the agent running."""

    SYSTEM = "system"
    USER = "user"
    SUPERVISOR = "supervisor"


@dataclass(frozen=True)
class Python:
    """An interpreter on a machine."""

    version: tuple[int, ...]
    path: str

    @property
    def minor(self) -> str:
        """Such as 3.11."""
        return ".".join(map(str, self.version[:2]))

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.version))} at {self.path}"


@dataclass(frozen=True)
class Machine:
    """A machine as the probe saw it.

    Attributes:
        machine: Processor, as `uname -m` says it.
        data: Folder of the user's releases and identities.
        managers: Service managers that answer: "system", "user".
        linger: Whether the user's services run while the user is logged out.
        pythons: What there is, in the order in which it was looked for.
        groups: Those that may read sensors or open GPUs, as far as they exist.
    """

    machine: str
    host: str
    user: str
    uid: int
    data: str
    config: str
    managers: frozenset[str]
    linger: bool
    pythons: tuple[Python, ...]
    groups: frozenset[str] = frozenset()

    def service(self, wish: Service | None) -> Service:
        """Who is to keep the agent running.

        Raises:
            DeployError: The one that is wanted is not there.
        """
        if wish in (Service.SYSTEM, Service.USER) and wish.value not in self.managers:
            why = f"no service manager of this kind ({wish.value}) answers on {self.host}"
            raise DeployError("no service manager", why, "leave --service out, or use --service supervisor")
        if wish is not None:
            return wish
        if self.uid == 0:
            return Service.SYSTEM if "system" in self.managers else Service.SUPERVISOR
        return Service.USER if "user" in self.managers else Service.SUPERVISOR


@dataclass(frozen=True)
class Standing:
    """How far a machine is a node already; what `host.inspect` says.

    Attributes:
        identities: Name of a node to the host of its gateway; only such as are good for a while yet.
        agent: Pid and deployment of what runs.
        free_bytes: Of the disk; None where nobody could look.
    """

    releases: frozenset[str]
    current: str | None
    identities: Mapping[str, str]
    settings: str | None
    unit: str | None
    agent: tuple[int, str] | None
    free_bytes: int | None


def look(transport: Transport, named_python: str | None = None) -> Machine:
    """Probe a machine.

    Raises:
        DeployError: It cannot be reached, or is not one that we run on.
    """
    reply = transport.run(f"sh -s -- {shlex.quote(named_python or '')}", stdin=PROBE.encode(), timeout_s=60.0)
    pairs = [line.partition("=")[::2] for line in reply.stdout.splitlines() if "=" in line]
    said = dict(pairs)
    if reply.code or "uid" not in said:
        why = f"{transport.target} has no POSIX shell that runs our probe (code {reply.code})"
        raise DeployError("host not understood", why, f"try: ssh {transport.target} sh -c true")
    if said["system"] != "Linux" or said["machine"] not in MACHINES:
        why = f"{transport.target} is {said['system']} on {said['machine']}"
        raise DeployError("host not supported", why, f"use Linux on {' or '.join(MACHINES)}")
    return Machine(
        machine=said["machine"],
        host=said["host"],
        user=said["user"],
        uid=int(said["uid"]),
        data=said["data"],
        config=said["config"],
        managers=frozenset(value for key, value in pairs if key == "systemd"),
        linger=said.get("linger") == "yes",
        groups=frozenset(value for key, value in pairs if key == "group"),
        pythons=tuple(dict.fromkeys(_python(value) for key, value in pairs if key == "python")),
    )


def choose_python(machine: Machine, *, minor: str | None, named: str | None) -> Python:
    """The interpreter to use: the one that was named, or the first that fits.

    Args:
        machine: As it was probed.
        minor: The only version that will do, as wheels of a bundle are for one; None for any from 3.11 on.
        named: Path that the user gave.

    Raises:
        DeployError: There is none; says what there is.
    """
    pool = [python for python in machine.pythons if named is None or python.path == named]
    for python in pool:
        if python.version >= OLDEST_PYTHON and (minor is None or python.minor == minor):
            return python
    wanted = minor or f"{'.'.join(map(str, OLDEST_PYTHON))} or newer"
    found = "; ".join(map(str, machine.pythons)) or "none"
    where = f"as {named}" if named else "in PATH, /usr/local, pyenv, uv and our own folder"
    raise DeployError(
        "no Python",
        f"looked for Python {wanted} {where} on {machine.host}; found: {found}",
        "bring one along (a bundle with --standalone-python), name one with --python, or a bundle for what is there",
    )


def standing(answer: Mapping[str, Any]) -> Standing:
    """What `host.inspect` said, as values."""
    agent = answer["agent"]
    return Standing(
        releases=frozenset(answer["releases"]),
        current=answer["current"],
        identities={name: _host(about) for name, about in answer["identities"].items() if about["age_s"] < GOOD_S},
        settings=answer["settings"],
        unit=answer["unit"],
        agent=(agent["pid"], agent["deployment"]) if agent else None,
        free_bytes=answer["free_bytes"],
    )


def _host(about: Mapping[str, Any]) -> str:
    return str(about["gateway"]).rpartition(":")[0].strip("[]")


def _python(text: str) -> Python:
    version, _, path = text.partition(" ")
    return Python(tuple(int(part) for part in version.split(".")), path)


NOTHING = Standing(frozenset(), None, {}, None, None, None, None)
