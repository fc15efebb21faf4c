"""The checks of `edgewise doctor`. Each looks at one thing and says what it found and what to do about it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from orchestrator.client.tls import TlsFailed
from orchestrator.config import GatewayConfig, is_loopback, split_address
from orchestrator.config_errors import ConfigError
from orchestrator.config_layers import load
from orchestrator.errors import EdgewiseError, ExitCode

MIN_FREE_BYTES = 100 << 20
NODE_TIMEOUT_S = 60.0
CLIENT_TIMEOUT_S = 3.0
# No clock may be earlier than the software; 2025-01-01 UTC is before its first release.
EARLIEST_UNIX_S = 1_735_689_600.0
PACKAGES = {
    "": ("grpcio", "protobuf", "numpy", "pydantic"),
    "gateway": ("cryptography", "uvloop", "structlog", "starlette", "httptools", "orjson", "prometheus-client"),
    "image": ("pillow",),
}


class Status(Enum):
    """How a check ended; a warning does not fail the whole."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Status
    detail: str
    cure: str = ""
    exit_code: ExitCode = ExitCode.FAILED


def local() -> Iterator[Check]:
    """Checks that need no gateway and no node."""
    yield _python()
    for extra, names in PACKAGES.items():
        yield _packages(extra, names)
    yield _clock(time.time())
    try:
        config = load(flags={}).config
    except ConfigError as error:
        cure = "repair it; `edgewise config validate FILE` checks"
        yield Check("configuration", Status.FAIL, str(error), cure, ExitCode.CONFIG)
        config = GatewayConfig()
    else:
        yield Check("configuration", Status.OK, f"gateway on {config.listen}, HTTP on {config.http_listen}")
    yield _disk(config.state_dir)


def gateway(
    target: str, timeout_s: float = CLIENT_TIMEOUT_S, *, key: str | None = None, ca_file: Path | None = None
) -> Iterator[Check]:
    """A gateway answers at `target`, or its port is free so that one can be started here."""
    from orchestrator.client import Client

    try:
        with Client(target, timeout_s=timeout_s, key=key, ca_file=ca_file) as client:
            fleet = client.status()
    except EdgewiseError as error:
        yield _nobody_answers(target, error)
        return
    if ca_file is not None:
        yield Check("TLS", Status.OK, f"{target} is whom {ca_file} vouches for")
    yield Check("gateway", Status.OK, f"{target} answers, version {fleet.version}")
    yield _same_version(fleet.version)
    healthy = sum(entry.state == "healthy" for entry in fleet.nodes)
    enough = Status.OK if healthy else Status.WARN
    yield Check("nodes", enough, f"{healthy} of {len(fleet.nodes)} healthy", _cure(enough, "edgewise node run"))


def node() -> list[Check]:
    """What `python -m nodes doctor` finds; it knows engines and energy meters."""
    command = [sys.executable, "-m", "nodes", "doctor", "-o", "json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=NODE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [Check("node", Status.FAIL, f"`{' '.join(command[1:])}`: {type(error).__name__}", "run it by hand")]
    return read_node_report(done.stdout, done.returncode)


def read_node_report(text: str, returncode: int) -> list[Check]:
    """Checks from the node's JSON, a list of ``{"check": name, "ok": bool, "detail": text}``."""
    failed = next((code for code in ExitCode if code == returncode and code), ExitCode.FAILED)
    try:
        found = [_from_node(entry, failed) for entry in json.loads(text)]
    except (ValueError, KeyError, TypeError):
        found = []
    if not found or (returncode and all(check.status is not Status.FAIL for check in found)):
        cure = "see `python -m nodes doctor`; on a machine that is no node: --skip-node"
        found.append(Check("node", Status.FAIL, f"its checks ended with exit code {returncode}", cure, failed))
    return found


def exit_code(found: Sequence[Check]) -> int:
    """0 when nothing failed, else the exit code of the first failure."""
    return next((int(check.exit_code) for check in found if check.status is Status.FAIL), 0)


def _cure(status: Status, cure: str) -> str:
    return "" if status is Status.OK else cure


def _python() -> Check:
    good = sys.version_info >= (3, 11)
    detail = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro} at {sys.executable}"
    return Check("python", Status.OK if good else Status.FAIL, detail, "" if good else "needs 3.11 or newer")


def _packages(extra: str, names: Sequence[str]) -> Check:
    versions = {name: _version(name) for name in names}
    missing = [name for name, found in versions.items() if found is None]
    title = f"packages [{extra}]" if extra else "packages"
    if missing:
        target = f"edgewise[{extra}]" if extra else "edgewise"
        status = Status.WARN if extra else Status.FAIL
        return Check(title, status, f"missing: {', '.join(missing)}", f"pip install '{target}'")
    return Check(title, Status.OK, ", ".join(f"{name} {found}" for name, found in versions.items()))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _clock(now_unix_s: float) -> Check:
    day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now_unix_s))
    if now_unix_s >= EARLIEST_UNIX_S:
        return Check("clock", Status.OK, day)
    return Check("clock", Status.FAIL, f"{day} is in the past", "set the clock or switch NTP on")


def _disk(folder: Path) -> Check:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    status = Status.OK if free >= MIN_FREE_BYTES else Status.FAIL
    cure = _cure(status, f"free at least {MIN_FREE_BYTES >> 20} MiB or set state_dir")
    return Check("disk", status, f"{free / 2**30:.1f} GiB free for {folder}", cure)


def _nobody_answers(target: str, error: EdgewiseError) -> Check:
    if isinstance(error, TlsFailed):
        cure = "name the gateway's ca.pem with --ca; see deploy/docs/identity.md"
        return Check("TLS", Status.FAIL, error.message, cure, error.surface.exit_code)
    if error.reason != "UNREACHABLE":
        return Check("gateway", Status.FAIL, error.message, "is this address a gateway's?", error.surface.exit_code)
    if not is_loopback(target):
        cure = "start it there, or check address and firewall"
        return Check("gateway", Status.FAIL, error.message, cure, ExitCode.UNREACHABLE)
    if _port_is_free(target):
        return Check("gateway", Status.OK, f"none at {target}; the port is free for one", "edgewise gateway")
    cure = f"stop it, or use --listen; `ss -ltnp` shows who holds {target}"
    return Check("gateway", Status.FAIL, f"something else holds {target}", cure, ExitCode.UNREACHABLE)


def _port_is_free(address: str) -> bool:
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _same_version(theirs: str) -> Check:
    ours = _version("edgewise") or "unknown"
    status = Status.OK if ours == theirs else Status.WARN
    cure = _cure(status, "install the same version on both sides")
    return Check("versions", status, f"here {ours}, gateway {theirs}", cure)


def _from_node(entry: dict[str, Any], failed: ExitCode) -> Check:
    status = Status.OK if entry["ok"] is True else Status.FAIL
    cure = _cure(status, "`edgewise node run --help` names the options")
    return Check(f"node: {entry['check']}", status, str(entry["detail"]), cure, failed)
