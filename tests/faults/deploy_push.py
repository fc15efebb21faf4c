"""`edgewise deploy push` against a real sshd, into an account made for it: ``python -m tests.faults.deploy_push``.

Part of ``make faults``. Needs root, sshd (``apt-get install openssh-server``) and a package index; without them it says
"not run" and exits 77. Ends with the account removed and none of its processes left.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.fakes.processes import START_S
from tests.faults.campaign import Line, conclude
from tests.faults.push_bundles import make_bundles
from tests.faults.push_house import (
    ACCOUNT,
    NODE,
    SSHD,
    Broken,
    House,
    account,
    processes,
    require,
    start_gateway,
    start_sshd,
)

NOT_RUN = 77
PLAIN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}


def missing() -> str:
    """Why it cannot run here; "" where it can."""
    if os.geteuid() != 0:
        return "it needs root, to make an account"
    if not Path(SSHD).exists():
        return f"{SSHD} is not there (apt-get install openssh-server)"
    lacks = [tool for tool in ("ssh", "ssh-keygen", "useradd", "userdel") if shutil.which(tool) is None]
    return f"there is no {lacks[0]}" if lacks else ""


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


def a_drained_agent_stays_away_until_it_is_pushed(house: House, bundle: Path) -> None:
    """`edgewise node drain` is obeyed by the supervisor, too."""
    pid = house.pushed(bundle)["agent_pid"]
    house.operator("node", "drain", NODE)
    until_s = time.monotonic() + START_S
    while psutil.pid_exists(pid) and time.monotonic() < until_s:
        time.sleep(0.1)
    time.sleep(2.0)
    left = [process for process in processes(house.home.stat().st_uid) if "nodes" in process.cmdline()]
    require(not left, f"after a drain: {left}")
    again = house.pushed(bundle)
    require(again["done"] == ["start"], f"after a drain: {again}")


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


def has_index(house: House) -> bool:
    """Whether the account's own Python can make environments and reach a package index."""
    words = [
        "runuser",
        "-u",
        ACCOUNT,
        "--",
        "sh",
        "-c",
        "cd && python3 -m venv probe && probe/bin/pip download -q click",
    ]
    ready = subprocess.run(words, capture_output=True, env=PLAIN).returncode == 0
    for left in (*house.home.glob("click-*"), house.home / "probe"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    return ready


def the_index_serves_too(house: House, wheel: Path) -> None:
    """Only our wheel is sent, and the machine fetches the rest by itself."""
    done = house.pushed(wheel)
    require("install" in done["done"] and done["verified"] is not None, str(done))
    require(house.pushed(wheel)["done"] == [], "the second push did something")


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
        a_drained_agent_stays_away_until_it_is_pushed(house, bundles["first"])
        later = an_upgrade_serves(house, bundles["later"], first)
        what_does_not_verify_is_rolled_back(house, bundles["broken"], later)
        if "brought" in bundles:
            a_python_comes_along(house, bundles["brought"])
        figures["brought_python"] = "brought" in bundles
        figures["index"] = has_index(house)
        if figures["index"]:
            the_index_serves_too(house, next(folder.glob("edgewise-*.whl")))
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
