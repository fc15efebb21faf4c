"""What a push is tried on: an account made for it, an sshd that lets it in, and a gateway with TLS. All of it ends."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.fakes.ports import free_port
from tests.fakes.processes import EDGEWISE, REPOSITORY, START_S, Running

SSHD = "/usr/sbin/sshd"
ACCOUNT, NODE = f"ewpush{os.getpid()}", "pushed"
SETTINGS = ("experts=digits-linear", "profiling-s=0.1")
PUSH_S = 600.0


class Broken(Exception):
    """Something is not as it was promised."""


@dataclass
class House:
    """An account, its sshd, and a gateway with TLS."""

    folder: Path
    home: Path
    ssh_port: int = 0
    ports: tuple[int, int, int] = (0, 0, 0)
    started: list[Running] = field(default_factory=list)

    @property
    def state(self) -> Path:
        """State of the gateway."""
        return self.folder / "gateway"

    def environment(self) -> dict[str, str]:
        """Of the operator's commands."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGEWISE_")}
        ours = {"EDGEWISE_STATE_DIR": str(self.state), "EDGEWISE_API_KEY_FILE": str(self.state / "admin.key")}
        return {**kept, **ours, "XDG_CONFIG_HOME": str(self.folder / "config"), "NO_COLOR": "1"}

    def start(self, name: str, *command: str, environment: dict[str, str] | None = None) -> Running:
        """A process that ends with the house."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as stream:
            popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                cwd=REPOSITORY,
                env=environment,
                start_new_session=True,
            )
        self.started.append(Running(name, popen, log))
        return self.started[-1]

    def push(self, bundle: Path, *words: str, known_hosts: str = "known_hosts") -> subprocess.CompletedProcess[str]:
        """One push, of a bundle or of our wheel alone."""
        clients, http, _ = self.ports
        options = {"Port": self.ssh_port, "IdentityFile": self.folder / "key", "IdentitiesOnly": "yes"}
        options["UserKnownHostsFile"] = self.folder / known_hosts
        ssh = [word for name, value in options.items() for word in ("--ssh-option", f"{name}={value}")]
        settings = [word for setting in SETTINGS for word in ("--setting", setting)]
        gateway = ["--gateway", f"https://127.0.0.1:{http}", "--admin", f"127.0.0.1:{clients}"]
        node = [
            "--name",
            NODE,
            "--profile",
            "laptop-cpu",
            f"--{'bundle' if bundle.suffix == '.tar' else 'wheel'}",
            str(bundle),
            "-o",
            "json",
        ]
        command = [*EDGEWISE, "deploy", "push", f"{ACCOUNT}@127.0.0.1", *gateway, *node, *settings, *ssh, *words]
        return subprocess.run(
            command, cwd=REPOSITORY, env=self.environment(), capture_output=True, text=True, timeout=PUSH_S
        )

    def pushed(self, bundle: Path) -> dict[str, Any]:
        """A push that must work."""
        done = self.push(bundle)
        require(done.returncode == 0, f"push ended with {done.returncode}: {done.stderr}")
        print(done.stderr.rstrip(), flush=True)
        return dict(json.loads(done.stdout)[0])

    def operator(self, *words: str) -> Any:
        """What a verb says as JSON."""
        command = [*EDGEWISE, "--gateway", f"127.0.0.1:{self.ports[0]}", *words, "-o", "json"]
        done = subprocess.run(
            command, cwd=REPOSITORY, env=self.environment(), capture_output=True, text=True, timeout=60, check=True
        )
        return json.loads(done.stdout)

    def node(self) -> dict[str, Any]:
        """The node as `edgewise status` shows it."""
        return next(node for node in self.operator("status")["nodes"] if node["node"] == NODE)


def require(holds: bool, what: str) -> None:
    """Raises:
    Broken: It does not hold.
    """
    if not holds:
        raise Broken(what)


def wait_for(log: Path, sign: str) -> None:
    """Wait until a log holds a sign."""
    until_s = time.monotonic() + START_S
    while sign not in log.read_text():
        require(time.monotonic() < until_s, f"{log.name} never said {sign!r}: {log.read_text()[-2000:]}")
        time.sleep(0.05)


@contextlib.contextmanager
def account() -> Iterator[Path]:
    """An account with a home of its own, and nothing left of it afterwards."""
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", "--password", "*", ACCOUNT], check=True)
    entry = pwd.getpwnam(ACCOUNT)
    try:
        yield Path(entry.pw_dir)
    finally:
        for process in processes(entry.pw_uid):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
                process.wait(5.0)
        subprocess.run(["userdel", "--remove", ACCOUNT], check=True, capture_output=True)
        left = processes(entry.pw_uid)
        require(not left and not Path(entry.pw_dir).exists(), f"left of {ACCOUNT}: {left}")


def processes(uid: int) -> list[psutil.Process]:
    """Processes of an account."""
    return [entry for entry in psutil.process_iter(["uids"]) if entry.info["uids"] and entry.info["uids"].real == uid]


def start_sshd(house: House) -> None:
    """An sshd on loopback with keys and settings of its own."""
    folder = house.folder
    for name in ("host_key", "other_key", "key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    house.ssh_port = free_port()
    for known, key in (("known_hosts", "host_key"), ("wrong_hosts", "other_key")):
        (folder / known).write_text(f"[127.0.0.1]:{house.ssh_port} {(folder / f'{key}.pub').read_text()}")
    lines = {
        "Port": house.ssh_port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host_key",
        "AuthorizedKeysFile": folder / "key.pub",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "PidFile": "none",
        "AllowUsers": ACCOUNT,
    }
    (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
    Path("/run/sshd").mkdir(exist_ok=True)
    folder.chmod(0o755)
    sshd = house.start("sshd", SSHD, "-D", "-e", "-f", str(folder / "sshd_config"))
    wait_for(sshd.log, "Server listening")


def start_gateway(house: House) -> None:
    """A gateway with TLS."""
    house.ports = (free_port(), free_port(), free_port())
    clients, http, nodes = (f"127.0.0.1:{port}" for port in house.ports)
    listen = ("--listen", clients, "--http-listen", http, "--nodes-listen", nodes)
    keys = {**house.environment(), "EDGEWISE_AUTH__KEYS": "required"}
    gateway = house.start("gateway", *EDGEWISE, "gateway", *listen, "--tls", "on", environment=keys)
    wait_for(gateway.log, "edgewise node join ")
