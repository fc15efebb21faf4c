"""The verb `push`: what the user typed becomes orders, and each host is gone through in turn."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from deploy.bundle import archive, source
from deploy.bundle.wheels import parse_name
from deploy.errors import DeployError
from deploy.push.carry_out import Done, Orders, Push
from deploy.push.facts import Service
from deploy.push.gateway import AdminGateway
from deploy.push.plan import Source, Wish
from deploy.push.ssh import OpenSsh
from nodes.cli import cli as node_cli
from nodes.config import NAME_PATTERN
from orchestrator.cli.context import shown_key
from orchestrator.client import Client
from orchestrator.errors import EdgewiseError, ExitCode
from orchestrator.places import local_authority

HTTP_PORT, GRPC_PORT = 8420, 8421
# What systemd and our supervisor both read as it stands.
PLAIN = re.compile(r"[^\x00-\x1f\x7f\"'\\$%]*")
# Set by the push itself.
OURS = ("gateway", "name", "identity")

Failures = list[tuple[str, DeployError]]


@dataclass(frozen=True)
class Given:
    """The options of `push`, named as there."""

    gateway: str
    admin: str | None
    ca: Path | None
    token: str | None
    name: str | None
    profile: str | None
    setting: tuple[str, ...]
    bundle: Path | None
    wheel: Path | None
    extra: tuple[str, ...]
    python: str | None
    service: str | None
    ssh_option: tuple[str, ...]
    no_verify: bool
    dry_run: bool


def push_all(hosts: Sequence[str], given: Given, say: Callable[[str], None]) -> tuple[list[Done], Failures]:
    """Push to each host; one that fails does not keep the others from it.

    Raises:
        DeployError: The orders themselves are wrong.
    """
    if given.name and len(hosts) > 1:
        raise _usage("--name is for one host", "leave it out: each node takes its host's name")
    if given.name and not re.fullmatch(NAME_PATTERN, given.name):
        raise _usage(f"--name {given.name!r}: use 1 to 64 of a-z 0-9 . _ -", "begin with a letter or a digit")
    if given.bundle and given.extra:
        raise _usage(
            "--extra is for pushes without a bundle", "a bundle installs what it was made with: `deploy bundle --extra`"
        )
    url = gateway_url(given.gateway)
    wish = Wish(given.name or "", url, settings_of(given.setting, given.profile))
    with tempfile.TemporaryDirectory(prefix="edgewise-push-") as folder, _client(given, url) as client:
        origin = _from_bundle(given.bundle) if given.bundle else _from_wheel(given.wheel, Path(folder), given.extra)
        results, failures = [], Failures()
        for host in hosts:
            say(host)
            try:
                results.append(_push_one(host, given, client, wish=wish, origin=origin, say=say))
            except DeployError as error:
                failures.append((host, error))
    return results, failures


def _push_one(
    host: str, given: Given, client: Client, *, wish: Wish, origin: Source, say: Callable[[str], None]
) -> Done:
    orders = Orders(
        source=origin,
        wish=wish,
        python=given.python,
        service=Service(given.service) if given.service else None,
        token=given.token,
        verify=not given.no_verify,
        dry=given.dry_run,
    )
    return Push(OpenSsh(host, given.ssh_option), AdminGateway(client), orders, say).run()


def gateway_url(text: str) -> str:
    """https://HOST:PORT, the port filled in.

    Raises:
        DeployError: It is something else.
    """
    parts = urlsplit(text)
    if parts.scheme != "https" or not parts.hostname or parts.path.strip("/") or parts.query:
        raise _usage(f"--gateway {text!r} is not https://HOST:PORT", "write it as the gateway prints it when it starts")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"https://{host}:{parts.port or HTTP_PORT}"


def settings_of(given: Sequence[str], profile: str | None) -> dict[str, str]:
    """EDGEWISE_NODE_… variables from NAME=VALUE, names being options of `edgewise node run`.

    Raises:
        DeployError: A name is none of them, or a value would be read in another way than it is meant.
    """
    known = {str(option.name).replace("_", "-") for option in node_cli.commands["run"].params} - set(OURS)
    pairs = [("profile", profile)] if profile else []
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise _usage(f"--setting {text!r}: {name!r} is none of {', '.join(sorted(known))}", "write NAME=VALUE")
        pairs.append((name, value))
    for name, value in pairs:
        if not PLAIN.fullmatch(value):
            raise _usage(f"--setting {name}: quotes, \\, $, % and line ends are not taken", "use a plain value")
    return {f"EDGEWISE_NODE_{name.replace('-', '_').upper()}": value for name, value in pairs}


def _client(given: Given, url: str) -> Client:
    host = urlsplit(url).hostname or ""
    admin = given.admin or f"{f'[{host}]' if ':' in host else host}:{GRPC_PORT}"
    try:
        return Client(admin, key=shown_key(os.environ), ca_file=given.ca or local_authority(os.environ))
    except EdgewiseError as error:
        cure = "name the authority's certificate with --ca"
        raise DeployError("no gateway", error.message, cure, exit_code=error.surface.exit_code) from error


def _from_bundle(file: Path) -> Source:
    bundle = archive.read(file)
    manifest = bundle.manifest
    digests = {entry.path: entry.sha256 for entry in manifest.files}
    brought = manifest.standalone_python
    python = None if brought is None else (brought, digests[brought])
    return Source(
        file=file,
        release=bundle.release,
        version=manifest.version,
        offline=True,
        minor=manifest.python,
        machine=manifest.machine,
        python=python,
        models=manifest.models is not None,
        extras=_with_node(manifest.extras),
    )


def _with_node(extras: Sequence[str]) -> tuple[str, ...]:
    """Sorted, each once, and what an agent needs among them."""
    return tuple(sorted({"node", *extras}))


def _from_wheel(wheel: Path | None, folder: Path, extras: Sequence[str]) -> Source:
    if wheel is None and not source.is_source():
        raise _usage("there are no sources here to make our wheel from", "pass --bundle FILE or --wheel FILE")
    # Machines of another processor say so: what is sent is for that of this one.
    file = wheel or source.build_wheel(folder, platform.machine())
    name = parse_name(file.name)
    machine = platform.machine() if name.platforms == ("any",) else name.platforms[0].removeprefix("linux_")
    release = f"{name.version}-{hashlib.sha256(archive.digest_file(file).encode()).hexdigest()[:12]}"
    # The same wheel with more beside it is another installation.
    release = "-".join([release, *sorted({*extras} - {"node"})])
    return Source(file, release, name.version, False, None, machine, extras=_with_node(extras))


def _usage(why: str, cure: str) -> DeployError:
    return DeployError("wrong usage", why, cure, exit_code=ExitCode.USAGE)
