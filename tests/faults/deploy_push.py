"""`edgewise deploy push` against a real sshd, into an account made for it: ``python -m tests.faults.deploy_push``.

Part of ``make faults``. Needs root, sshd (``apt-get install openssh-server``) and a package index; without them it says
"not run" and exits 77. Ends with the account removed and none of its processes left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from deploy.bundle.assemble import Recipe, gather, pack
from deploy.bundle.source import FILES, ROOMS, ROOT, build_wheel, project_version
from deploy.bundle.wheels import Target
from tests.fakes.processes import EDGEWISE, REPOSITORY, START_S, Running, free_port
from tests.faults.campaign import Line, conclude

NOT_RUN = 77
SSHD = "/usr/sbin/sshd"
ACCOUNT, NODE = f"ewpush{os.getpid()}", "pushed"
SETTINGS = ("experts=digits-linear", "profiling-s=0.1")
PUSH_S = 600.0
PLAIN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}


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
        """One push."""
        clients, http, _ = self.ports
        options = {"Port": self.ssh_port, "IdentityFile": self.folder / "key", "IdentitiesOnly": "yes"}
        options["UserKnownHostsFile"] = self.folder / known_hosts
        ssh = [word for name, value in options.items() for word in ("--ssh-option", f"{name}={value}")]
        settings = [word for setting in SETTINGS for word in ("--setting", setting)]
        gateway = ["--gateway", f"https://127.0.0.1:{http}", "--admin", f"127.0.0.1:{clients}"]
        node = ["--name", NODE, "--profile", "laptop-cpu", "--bundle", str(bundle), "-o", "json"]
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


def missing() -> str:
    """Why it cannot run here; "" where it can."""
    if os.geteuid() != 0:
        return "it needs root, to make an account"
    if not Path(SSHD).exists():
        return f"{SSHD} is not there (apt-get install openssh-server)"
    lacks = [tool for tool in ("ssh", "ssh-keygen", "useradd", "userdel") if shutil.which(tool) is None]
    return f"there is no {lacks[0]}" if lacks else ""


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


def standalone_python(to: Path) -> Path | None:
    """The system's Python as an archive that can be unpacked anywhere; None where it is not laid out as Debian's is."""
    binary, library = Path("/usr/bin/python3.11"), Path("/usr/lib/python3.11")
    if not binary.exists() or not (library / "os.py").exists():
        return None
    left_out = ("test", "idlelib", "tkinter", "__pycache__", "dist-packages")
    with tarfile.open(to, "w:gz", compresslevel=1) as archive:
        archive.add(binary.resolve(), "python/bin/python3")
        archive.add(library, "python/lib/python3.11", filter=lambda entry: keep(entry, left_out))
    return to


def keep(entry: tarfile.TarInfo, left_out: tuple[str, ...]) -> tarfile.TarInfo | None:
    """An entry for an archive, unless its folder is to be left out, or it points out of it."""
    outward = entry.issym() and entry.linkname.startswith("/")
    return None if outward or set(Path(entry.name).parts) & set(left_out) else entry


def make_bundles(folder: Path) -> dict[str, Path]:
    """The sources as they are, a later version, one whose agent does not start, and one with a Python of its own."""
    target = Target(os.uname().machine, "3.11")
    wheels = gather(Recipe(target), folder)
    others = [wheel for wheel in wheels if not wheel.name.startswith("edgewise-")]
    bundles = {"first": folder / "first.tar", "later": folder / "later.tar", "broken": folder / "broken.tar"}
    pack(Recipe(target), wheels, bundles["first"])
    os.environ["EDGEWISE_NATIVE"] = "skip"
    for number, name in ((101, "later"), (102, "broken")):
        changed = changed_sources(folder / name, version=f"{project_version()}.post{number}", broken=name == "broken")
        own = build_wheel(folder / f"{name}-wheel", target.machine, root=changed)
        pack(Recipe(target), [own, *others], bundles[name])
    del os.environ["EDGEWISE_NATIVE"]
    if python := standalone_python(folder / "cpython-install_only.tar.gz"):
        bundles["brought"] = folder / "brought.tar"
        pack(Recipe(target, standalone_python=python), wheels, bundles["brought"])
    return bundles


def changed_sources(to: Path, *, version: str, broken: bool) -> Path:
    """A copy of the sources with another version; broken, its agents end as they start."""
    to.mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, to / name)
    for room in ROOMS:
        shutil.copytree(ROOT / room, to / room, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    project = to / "pyproject.toml"
    project.write_text(project.read_text().replace(f'version = "{project_version()}"', f'version = "{version}"'))
    if broken:
        run = to / "nodes" / "run.py"
        run.write_text(run.read_text() + '\n\nraise RuntimeError("broken on purpose")\n')
    return to


# ---- what is promised


def dry_run_changes_nothing(house: House, bundle: Path) -> None:
    """It says every step, and the home stays as it was."""
    before = sorted(house.home.rglob("*"))
    done = house.push(bundle, "--dry-run")
    require(done.returncode == 0, done.stderr)
    for word in ("send", "install", "join", "settings", "start", "healthy", "older releases"):
        require(word in done.stderr, f"the dry run does not say {word}: {done.stderr}")
    require(sorted(house.home.rglob("*")) == before, "the dry run changed something")


def a_wrong_host_key_is_refused(house: House, bundle: Path) -> None:
    """The control of the check of host keys."""
    done = house.push(bundle, known_hosts="wrong_hosts")
    require(done.returncode == 6 and "its key is not known" in done.stderr, done.stderr)


def a_node_runs_and_answers(house: House, bundle: Path) -> dict[str, Any]:
    """Joined with TLS under its own certificate, as the account, with no open port."""
    done = house.pushed(bundle)
    agent = psutil.Process(done["agent_pid"])
    require(agent.username() == ACCOUNT, f"it runs as {agent.username()}")
    listening = [entry for entry in agent.net_connections() if entry.status == psutil.CONN_LISTEN]
    require(not listening, f"it listens: {listening}")
    require(house.node()["state"] == "healthy", str(house.node()))
    states = {entry["node"]: entry["state"] for entry in house.operator("node", "identities")}
    require(states == {NODE: "approved"}, str(states))
    require(done["verified"]["arm"].endswith(f"@{NODE}"), str(done["verified"]))
    return done


def an_installed_edgewise_finds_its_files(house: House) -> None:
    """What was installed there can make a unit and name its manifests."""
    edgewise = house.home / ".local/share/edgewise/current/bin/edgewise"
    for words in (["files", "kubernetes"], ["service", "node", "--dry-run"]):
        command = ["runuser", "-u", ACCOUNT, "--", str(edgewise), "deploy", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", env=PLAIN)
        require(done.returncode == 0, f"{words}: {done.stderr}")
        require("kubernetes/node.yaml" in done.stdout or f"ExecStart={house.home}" in done.stdout, done.stdout)


def installed_bytes(house: House, release: str) -> int:
    """What a release takes on the disk."""
    folder = house.home / ".local/share/edgewise/releases" / release
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


def twice_is_once(house: House, bundle: Path, first: dict[str, Any]) -> None:
    """The second push does nothing: same agent, same tree. A changed file is seen (the control)."""
    again = house.pushed(bundle)
    require(again["done"] == [], f"the second push did {again['done']}")
    same = [again[key] == first[key] for key in ("agent_pid", "tree_sha256", "release")]
    require(all(same), f"not the same: {first} and {again}")
    mark = house.home / ".local/share/edgewise/releases" / first["release"] / "pyvenv.cfg"
    os.utime(mark, (1, 1))
    require(house.pushed(bundle)["tree_sha256"] != first["tree_sha256"], "the digest does not see a change")


def a_killed_agent_comes_back(house: House, bundle: Path, pid: int) -> None:
    """The supervisor starts another."""
    os.kill(pid, signal.SIGKILL)
    time.sleep(2.0)
    again = house.pushed(bundle)
    require(again["done"] == [] and again["agent_pid"] != pid, f"after a kill: {again}")


def an_upgrade_serves(house: House, bundle: Path, first: dict[str, Any]) -> dict[str, Any]:
    """Another release, another process, and the gateway sees its version."""
    done = house.pushed(bundle)
    require(
        done["release"] != first["release"] and done["done"] == ["send", "install", "configure", "start", "prune"],
        str(done),
    )
    require(house.node()["software_version"] in done["release"], str(house.node()))
    again = house.pushed(bundle)
    require(again["done"] == [] and again["tree_sha256"] == done["tree_sha256"], f"after an upgrade: {again}")
    return done


def what_does_not_verify_is_rolled_back(house: House, bundle: Path, before: dict[str, Any]) -> None:
    """The release before runs again and answers."""
    done = house.push(bundle)
    print(done.stderr.rstrip(), flush=True)
    require(done.returncode == 1 and "rolled back" in done.stderr, done.stderr)
    require("broken on purpose" in done.stderr, "the reason is not said")
    current = os.readlink(house.home / ".local/share/edgewise/current")
    require(current == f"releases/{before['release']}", current)
    until_s = time.monotonic() + START_S
    while house.node()["state"] != "healthy" and time.monotonic() < until_s:
        time.sleep(0.5)
    require(house.node()["software_version"] in before["release"], str(house.node()))


def a_python_comes_along(house: House, bundle: Path) -> None:
    """The agent runs on the Python that was in the bundle."""
    done = house.pushed(bundle)
    require("unpack" in done["done"], str(done))
    binary = Path(f"/proc/{done['agent_pid']}/exe").resolve()
    require(binary.is_relative_to(house.home / ".local/share/edgewise/python"), str(binary))
    require(house.pushed(bundle)["done"] == [], "the second push did something")


def campaign(folder: Path, home: Path) -> Line:
    """All of it, in one life of a node."""
    house, began_s = House(folder, home), time.monotonic()
    figures: dict[str, object] = {}
    told: list[str] = []
    try:
        bundles = make_bundles(folder)
        figures["bundles_s"] = round(time.monotonic() - began_s, 1)
        start_sshd(house)
        start_gateway(house)
        dry_run_changes_nothing(house, bundles["first"])
        a_wrong_host_key_is_refused(house, bundles["first"])
        first_s = time.monotonic()
        first = a_node_runs_and_answers(house, bundles["first"])
        figures["first_push_s"] = round(time.monotonic() - first_s, 1)
        figures["release_mb"] = round(installed_bytes(house, first["release"]) / 1e6)
        an_installed_edgewise_finds_its_files(house)
        second_s = time.monotonic()
        twice_is_once(house, bundles["first"], first)
        figures["pushes_that_do_nothing_s"] = round((time.monotonic() - second_s) / 2, 1)
        a_killed_agent_comes_back(house, bundles["first"], first["agent_pid"])
        later = an_upgrade_serves(house, bundles["later"], first)
        what_does_not_verify_is_rolled_back(house, bundles["broken"], later)
        if "brought" in bundles:
            a_python_comes_along(house, bundles["brought"])
        figures["brought_python"] = "brought" in bundles
        figures["tree_sha256"] = first["tree_sha256"]
    except Broken as error:
        told.append(str(error))
    finally:
        for running in reversed(house.started):
            running.end_group()
    return Line("deploy_push", 1, figures, told)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, record, judge."""
    parser = argparse.ArgumentParser(description="Push an agent through a real sshd.")
    parser.add_argument("--no-record", action="store_true", help="leave results.jsonl as it is")
    options = parser.parse_args(arguments)
    if why := missing():
        print(f"not run: deploy_push: {why}")
        sys.exit(NOT_RUN)
    with tempfile.TemporaryDirectory(prefix="edgewise-push-") as folder, account() as home:
        line = campaign(Path(folder), home)
    conclude([line], keep=not options.no_record)


if __name__ == "__main__":
    main()
