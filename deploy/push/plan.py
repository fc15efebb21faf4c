"""What a push has to do on a machine, decided from what was found there: pure, so that a dry run says the same."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deploy.errors import DeployError
from deploy.push.facts import Machine, Python, Service, Standing
from deploy.service.units import Role, Scope, render, unit_of

SYSTEM_BASE, SYSTEM_STATE = "/opt/edgewise", "/var/lib/edgewise-node"
# What an unpacked release takes beside the wheels it comes from.
MIN_FREE_BYTES = 1 << 30


@dataclass(frozen=True)
class Source:
    """What is to be installed.

    Attributes:
        file: A bundle, or our wheel alone.
        release: Name of its installation.
        offline: Whether all that is needed is in it; if not, the machine asks its package index.
        minor: The Python that it is for; None for any.
        machine: The processor that it is for.
        python: Path, in the bundle, and SHA-256 of a Python that comes along; None for the machine's own.
        extras: Of the package, that are installed.
        models: Whether it brings experts, which then stand in for those that ship.
    """

    file: Path
    release: str
    version: str
    offline: bool
    minor: str | None
    machine: str
    python: tuple[str, str] | None = None
    models: bool = False
    extras: tuple[str, ...] = ("node",)

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return self.file.stat().st_size


@dataclass(frozen=True)
class Wish:
    """What the node is to be.

    Attributes:
        name: "" for the host's.
        gateway: https://HOST:PORT where it joins.
        settings: EDGEWISE_NODE_… variables.
    """

    name: str
    gateway: str
    settings: Mapping[str, str]

    @property
    def gateway_host(self) -> str:
        """The host alone."""
        return urlsplit(self.gateway).hostname or ""


@dataclass(frozen=True)
class Layout:
    """Where everything lies on a machine."""

    base: str
    identities: str
    settings: str
    unit: str | None
    service: Service

    def params(self) -> dict[str, Any]:
        """As the verbs of `host` take it."""
        return {
            "base": self.base,
            "identities": self.identities,
            "settings": self.settings,
            "unit": self.unit,
            "service": self.service.value,
        }


@dataclass(frozen=True)
class Step:
    """One thing to do. `due` is False where it is done already."""

    verb: str
    text: str
    due: bool = True


@dataclass(frozen=True)
class Plan:
    """All steps for a machine, and what they write."""

    steps: tuple[Step, ...]
    settings_text: str
    unit_text: str | None
    deployment: str


def node_name(host: str) -> str:
    """A host's name, made to fit what nodes may be called."""
    return re.sub(r"[^a-z0-9._-]+", "-", host.lower()).lstrip("._-")[:64] or "node"


def layout_of(machine: Machine, service: Service) -> Layout:
    """Where things lie, by who keeps the agent running."""
    if service is Service.SYSTEM:
        unit = unit_of(Role.NODE, Scope.SYSTEM, {})
        return Layout(SYSTEM_BASE, f"{SYSTEM_STATE}/edgewise/node", str(unit.environment), str(unit.file), service)
    unit = unit_of(Role.NODE, Scope.USER, {"XDG_CONFIG_HOME": machine.config})
    file = str(unit.file) if service is Service.USER else None
    return Layout(machine.data, f"{machine.data}/node", str(unit.environment), file, service)


def make_plan(*, source: Source, wish: Wish, layout: Layout, machine: Machine, python: Python, found: Standing) -> Plan:
    """Every step, due or done.

    Raises:
        DeployError: The disk is too small.
    """
    _check_room(source, machine, found)
    unit_text = _unit_text(layout, machine)
    settings = {**wish.settings, "EDGEWISE_NODE_NAME": wish.name}
    settings["EDGEWISE_NODE_IDENTITY"] = f"{layout.identities}/{wish.name}"
    if source.models:
        settings.setdefault("EDGEWISE_NODE_MODELS", f"{layout.base}/releases/{source.release}/models")
    # Releases stay as they were installed.
    settings["PYTHONDONTWRITEBYTECODE"] = "1"
    deployment = _deployment(source.release, settings, unit_text, layout)
    text = "".join(f"{name}={value}\n" for name, value in sorted(settings.items()))
    text = f"# Written by `edgewise deploy push`; the next push replaces it.\n{text}EDGEWISE_DEPLOYMENT={deployment}\n"
    there = python.path in {known.path for known in machine.pythons}
    steps = _steps(source, wish, layout, python=python, found=found, unpacked=there)
    kept = found.settings == text and (layout.unit is None or found.unit == unit_text)
    runs = found.agent is not None and found.agent[1] == deployment and found.current == source.release
    configure = Step("configure", f"write settings to {layout.settings}", not kept)
    start = Step("start", _start_text(source, layout, found, runs=runs), not runs)
    verify = Step("verify", f"see {wish.name} healthy at {wish.gateway_host} and have it answer one query")
    # Only with a switch: the release before stays to go back to, also when the same is pushed again.
    old = sorted(found.releases - {source.release, found.current or ""})
    switched = found.current != source.release
    prune = Step("prune", f"{'remove' if switched else 'keep'} older releases: {', '.join(old) or 'none'}", switched)
    return Plan((*steps, configure, start, verify, prune), text, unit_text, deployment)


def _start_text(source: Source, layout: Layout, found: Standing, *, runs: bool) -> str:
    pid = found.agent[0] if found.agent else None
    if runs:
        return f"{source.release} runs under {_keeper(layout)}, pid {pid}"
    drain = f"drain the agent that runs (pid {pid}), then " if pid else ""
    return f"point {layout.base}/current at {source.release}; {drain}start it under {_keeper(layout)}"


def _steps(
    source: Source, wish: Wish, layout: Layout, *, python: Python, found: Standing, unpacked: bool
) -> list[Step]:
    fresh = source.release not in found.releases
    size = f"{source.size_bytes / 1e6:.0f} MB"
    steps = [Step("send", f"send {source.file.name} ({size}) to {layout.base}/incoming", fresh)]
    if source.python is not None:
        steps.append(Step("unpack", f"unpack the Python that comes along to {layout.base}/python", not unpacked))
    origin = "from it" if source.offline else "with what it needs from the package index"
    place = f"{layout.base}/releases/{source.release}"
    steps.append(Step("install", f"install {origin} into {place}, with Python {python}", fresh))
    joined = found.identities.get(wish.name) == wish.gateway_host
    return [*steps, Step("join", f"join {wish.gateway} as {wish.name}", not joined)]


def _check_room(source: Source, machine: Machine, found: Standing) -> None:
    needed = MIN_FREE_BYTES + 4 * source.size_bytes
    if found.free_bytes is not None and source.release not in found.releases and found.free_bytes < needed:
        why = f"{machine.host} has {found.free_bytes / 1e9:.1f} GB free, and this takes up to {needed / 1e9:.1f} GB"
        raise DeployError("disk too small", why, "make room there")


def _unit_text(layout: Layout, machine: Machine) -> str | None:
    if layout.unit is None:
        return None
    unit = unit_of(Role.NODE, Scope(layout.service.value), {"XDG_CONFIG_HOME": machine.config})
    return render(unit, f"{layout.base}/current/bin/edgewise", machine.groups)


def _deployment(release: str, settings: Mapping[str, str], unit_text: str | None, layout: Layout) -> str:
    parts = [release, repr(sorted(settings.items())), unit_text or "", layout.service.value]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _keeper(layout: Layout) -> str:
    names = {
        Service.SYSTEM: "systemd",
        Service.USER: "systemd --user",
        Service.SUPERVISOR: "our own supervisor (no systemd answers)",
    }
    return names[layout.service]
