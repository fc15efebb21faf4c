"""Faults of a Ray cluster: ``python -m tests.faults.ray_campaign [--repeats N]`` (part of ``make faults``).

A head and two raylets on this machine run three agents beside a plain one. Where Ray is not installed, an
environment of its own is made under `build/peers/ray`; where that cannot be, it says "not run" and exits 77.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from orchestrator.client import AsyncClient
from tests.fakes.processes import REPOSITORY, NotReady
from tests.faults.campaign import Line, conclude
from tests.faults.history import CALM, FAULT, TERMINAL_GRACE_S, Entry
from tests.faults.load import Load
from tests.faults.ray_house import ALPHA, BETA, EXPERT, MOVER, RayHouse, agent, write

NAMES = ("ray_kill_actor", "ray_kill_raylet", "ray_sweep", "ray_unguarded", "ray_joined", "ray_headless")
NOT_RUN = 77
INSTALL_S = 900.0
RATE_HZ = 20.0
CALM_S = 2.0
# Bars: seconds until the agent answers again, and until the loss of a head is said.
BACK_S = {"ray_kill_actor": 10.0, "ray_kill_raylet": 20.0}
SAID_S = 10.0
ANSWERED_FRACTION = 0.99
# How long the load goes on after a fault, and after the head is gone.
WATCHED_S, HEADLESS_S = 25.0, 10.0


def placed(house: RayHouse) -> dict[str, Any]:
    """(a) Agents are on the nodes whose labels they ask for, and the gateway has them."""
    started_s = time.monotonic()
    ended = house.ray("up")
    seconds = time.monotonic() - started_s
    if ended.returncode:
        raise AssertionError(ended.stderr)
    rows, nodes = house.rows(), house.told["nodes"]
    where = {ALPHA: nodes["device-a"], BETA: nodes["device-b"]}
    return {
        "by_label": all(rows[name]["ray_node"] == node for name, node in where.items()),
        "healthy": sorted(name for name, row in rows.items() if row["gateway"] == "healthy"),
        "up_s": round(seconds, 2),
    }


def kill_actor(house: RayHouse) -> Callable[[], None]:
    """(b) `kill -9` of the process of the actor."""
    pid = int(house.rows()[MOVER]["keeper_pid"])
    return lambda: os.kill(pid, signal.SIGKILL)


def kill_raylet(house: RayHouse) -> Callable[[], None]:
    """(c) `kill -9` of the raylet on whose node the agent is."""
    node = house.rows()[MOVER]["ray_node"]
    (name,) = (name for name, own in house.told["nodes"].items() if own == node)
    return lambda: house.told.update(house.cluster.order(f"kill_raylet {name}"))


def restore(house: RayHouse) -> None:
    """Bring back workers that were killed, and wait until everybody is where the spec wants them."""
    for name in {"device-a", "device-b"} - set(house.told["nodes"]):
        house.told.update(house.cluster.order(f"add {name}"))
    ended = house.ray("up")
    if ended.returncode:
        raise AssertionError(ended.stderr)


async def under_load(house: RayHouse, label: str, seed: int, strike: Callable[[], None]) -> tuple[list[Entry], float]:
    """(d) Every request around a fault, and after how many seconds the agent's next life answered one."""
    async with AsyncClient(house.fleet.address) as client:
        await client.status()
        load = Load(client, np.random.default_rng(seed), f"{label}-{seed}", phase=CALM)
        await load.steady((EXPERT,), rate_hz=RATE_HZ, seconds=CALM_S)
        load.phase = FAULT
        lives, joined_s, back_s = _lives(house), np.inf, np.inf
        began_s = time.monotonic()
        striking = asyncio.create_task(asyncio.to_thread(strike))
        while time.monotonic() < began_s + WATCHED_S and back_s == np.inf:
            await load.steady((EXPERT,), rate_hz=RATE_HZ, seconds=0.25)
            if joined_s == np.inf and _lives(house) > lives:
                joined_s = time.monotonic()
            ends_s = [one.end_s for one in load.entries if MOVER in one.answered_by and one.due_s > joined_s]
            back_s = min(ends_s, default=np.inf) - began_s
        await striking
        return await load.settled(), float(back_s)


def _lives(house: RayHouse) -> int:
    """How often the agent has connected."""
    assert house.fleet.gateway is not None
    return sum(event.get("node") == MOVER for event in house.fleet.gateway.events("node.joined"))


def struck(house: RayHouse, name: str, aim: Callable[[RayHouse], Callable[[], None]], repeats: int) -> Line:
    """One fault so often, with the requests around it."""
    entries, back_s = list[Entry](), list[float]()
    for seed in range(repeats):
        found, seconds = asyncio.run(under_load(house, name, seed, aim(house)))
        entries += found
        back_s.append(round(seconds, 2))
        print(f"  {name} {seed + 1}/{repeats}: back after {seconds:.2f} s, {_counts(found)}", flush=True)
        restore(house)
    counts = _counts(entries)
    missed = [f"back after {max(back_s):.1f} s"] if max(back_s) > BACK_S[name] else []
    missed += [f"{counts['lost']} requests without an end by their deadline"] if counts["lost"] else []
    few = counts["answered"] < ANSWERED_FRACTION * counts["requests"]
    missed += [f"{counts['answered']} of {counts['requests']} answered"] if few else []
    return Line(name, repeats, {"back_s": back_s, **counts}, [f"{name}: {text}" for text in missed])


def _counts(entries: list[Entry]) -> dict[str, Any]:
    answered = [entry for entry in entries if entry.outcome == "ok"]
    late = [entry for entry in entries if entry.latency_s > entry.deadline_s + TERMINAL_GRACE_S]
    unknown = [entry for entry in entries if entry.outcome == "unknown"]
    wrong = [entry for entry in answered if not entry.right]
    return {
        "requests": len(entries),
        "answered": len(answered),
        "typed_errors": sum(entry.outcome == "fail" for entry in entries),
        "lost": len({entry.request_id for entry in (*late, *unknown, *wrong)}),
        "reasons": sorted({entry.reason for entry in entries if entry.reason}),
    }


def sweep(house: RayHouse) -> Line:
    """(e) 200 plans, bit-equal to those of one process, although workers die; without retries it is an error."""
    found = house.start("tests.faults.ray_jobs", "sweep", str(house.told["address"])).told(300.0)
    checks = {
        "not equal": found.get("equal") is True and found.get("plans") == 200,
        "seeds differ": found.get("seeds_equal") is True,
        "no worker was killed": found.get("workers_killed", 0) >= 1,
        "control: without retries nothing is lost": found.get("without_retry") == "work given up",
    }
    return Line("ray_sweep", 1, found, [f"ray_sweep: {text}" for text, holds in checks.items() if not holds])


def unguarded(house: RayHouse) -> Line:
    """(f) A cluster without authentication, a missing token and a readable one are refused; nothing is placed."""
    opened = house.start_cluster(house.folder / "open", "--open")
    address = str(opened.told(120.0)["address"])
    loose = house.folder / "loose"
    loose.write_text(house.token.read_text())
    loose.chmod(0o644)
    guarded = str(house.told["address"])
    cases = {
        "open_cluster": (address, house.token, {}),
        "no_token": (guarded, house.folder / "nowhere", {}),
        "readable_token": (guarded, loose, {}),
        "switched_off": (guarded, house.token, {"RAY_AUTH_MODE": "disabled"}),
    }
    said = dict[str, int]()
    for name, (target, token, settings) in cases.items():
        spec = house.folder / f"{name}.yaml"
        house.write_spec(spec, target, token)
        ended = house.edgewise("ray", "up", "--spec", str(spec), **settings)
        said[name] = ended.returncode
    opened.close()
    control = house.ray("status").returncode
    missed = [f"{name} is not refused" for name, code in said.items() if code != 5]
    missed += ["control: the guarded cluster is refused too"] if control else []
    figures = {"exit_codes": said, "control_exit_code": control}
    return Line("ray_unguarded", 1, figures, [f"ray_unguarded: {text}" for text in missed])


def joined(house: RayHouse) -> Line:
    """An agent joins a gateway with TLS by a token that no process list shows, and again after a move."""
    settings = house.start_secure_gateway()
    spec = house.folder / "joiner.yaml"
    write(spec, str(house.told["address"]), house.token, [agent("joiner", EXPERT, {"edgewise.device": "device-a"})])
    watch = Watch()
    first = house.edgewise("ray", "up", "--spec", str(spec), **settings)
    # What it joined with is gone with the machine that it was on.
    shutil.rmtree(house.folder / "data" / "edgewise" / "node" / "joiner")
    write(spec, str(house.told["address"]), house.token, [agent("joiner", EXPERT, {"edgewise.device": "device-b"})])
    second = house.edgewise("ray", "up", "--spec", str(spec), **settings)
    status = house.edgewise("ray", "status", "--spec", str(spec), "-o", "json", **settings)
    row = next(row for row in json.loads(status.stdout) if row["name"] == "joiner")
    house.edgewise("ray", "down", "--spec", str(spec), **settings)
    figures = {"exit_codes": [first.returncode, second.returncode], "gateway": row["gateway"], "seen": watch.ended()}
    wanted = {"exit_codes": [0, 0], "gateway": "healthy", "seen": 0}
    missed = [] if figures == wanted else [f"ray_joined: {figures} {first.stderr[-200:]} {second.stderr[-200:]}"]
    return Line("ray_joined", 1, figures, missed)


class Watch:
    """Looks at the list of processes all the time, for anything that reads like a join token."""

    def __init__(self) -> None:
        self._stop, self._seen = threading.Event(), set[int]()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._stop.wait(0.2):
            for process in psutil.process_iter(["cmdline"]):
                if any(word.startswith("K10") and "::" in word for word in process.info["cmdline"] or ()):
                    self._seen.add(process.pid)

    def ended(self) -> int:
        """Stop; how many processes showed one."""
        self._stop.set()
        self._thread.join()
        return len(self._seen)


def mortal(house: RayHouse) -> Line:
    """The control of `ray_kill_actor`: an actor that Ray does not start again is not back in time."""
    job = house.start("tests.faults.ray_jobs", "mortal", str(house.told["address"]), house.fleet.address)
    pid = int(job.told(120.0)["keeper_pid"])
    house.fleet.wait_until(lambda: house.fleet.state_of("mortal") == "healthy", "the mortal agent", timeout_s=60.0)
    os.kill(pid, signal.SIGKILL)
    time.sleep(BACK_S["ray_kill_actor"])
    state = house.fleet.state_of("mortal")
    job.close()
    missed = ["control_ray_kill_actor: it is back without Ray's restarts"] if state == "healthy" else []
    return Line("control_ray_kill_actor", 1, {"state_after_10_s": state}, missed)


def headless(house: RayHouse) -> Line:
    """(g) The head is killed: requests go on, jobs and `edgewise ray` say so in time."""
    job = house.start("tests.faults.ray_jobs", "endless", str(house.told["address"]))
    job.told(60.0)
    killed_unix_s = time.time()
    entries = asyncio.run(_through(house))
    told = job.told(60.0)
    said_s = round(float(told.get("said_unix_s", np.inf)) - killed_unix_s, 2)
    ended_s = time.monotonic()
    job.popen.wait(60.0)
    ended_s = time.monotonic() - ended_s
    asked_s = time.monotonic()
    status = house.ray("status")
    asked_s = round(time.monotonic() - asked_s, 2)
    counts = _counts(entries)
    figures = {
        **counts,
        "job_said_s": said_s,
        "job": told,
        "status_said_s": asked_s,
        "job_ended_after_s": round(ended_s, 2),
    }
    checks = {
        f"{counts['answered']} of {counts['requests']} answered": counts["answered"] == counts["requests"],
        f"the job said so after {said_s} s": said_s <= SAID_S and told.get("exit_code") == 6,
        f"`edgewise ray status` said so after {asked_s} s": asked_s <= SAID_S and status.returncode == 6,
    }
    return Line("ray_headless", 1, figures, [f"ray_headless: {text}" for text, holds in checks.items() if not holds])


async def _through(house: RayHouse) -> list[Entry]:
    async with AsyncClient(house.fleet.address) as client:
        await client.status()
        load = Load(client, np.random.default_rng(0), "headless", phase=FAULT)
        killing = asyncio.create_task(asyncio.to_thread(house.cluster.order, "kill_head"))
        await load.steady((EXPERT,), rate_hz=RATE_HZ, seconds=HEADLESS_S)
        await killing
        return await load.settled()


def campaign(house: RayHouse, repeats: int, only: Sequence[str]) -> list[Line]:
    """All of it, or those that are named; the head's death last."""
    first = placed(house)
    fits = first["by_label"] and first["healthy"] == [ALPHA, BETA, MOVER]
    lines = [Line("ray_placed", 1, first, [] if fits else [f"ray_placed: {first}"])]
    print(f"  ray_placed: {first}", flush=True)
    aims: Mapping[str, Callable[[RayHouse], Callable[[], None]]] = {
        "ray_kill_actor": kill_actor,
        "ray_kill_raylet": kill_raylet,
    }
    lines += [struck(house, name, aim, repeats) for name, aim in aims.items() if name in only]
    if "ray_kill_actor" in only:
        lines.append(run(mortal, house))
    for scenario in [one for one in (sweep, unguarded, joined, headless) if f"ray_{one.__name__}" in only]:
        lines.append(run(scenario, house))
        print(f"  {lines[-1].scenario}: {lines[-1].figures}", flush=True)
    return lines


def run(scenario: Callable[[RayHouse], Line], house: RayHouse) -> Line:
    """A scenario's line, also where it cannot be played to its end: what came before is kept."""
    try:
        return scenario(house)
    except (NotReady, AssertionError, LookupError, ValueError, OSError, subprocess.SubprocessError) as error:
        name = f"ray_{scenario.__name__}"
        return Line(name, 1, {}, [f"{name}: {type(error).__name__}: {str(error)[:200]}"])


def elsewhere(arguments: list[str]) -> int:
    """Run in an environment that has Ray, made where there is none; 77 where it cannot be."""
    home = REPOSITORY / "build" / "peers" / "ray" / ".venv"
    python, stamp = home / "bin" / "python", home / ".installed"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", "constraints.txt"]
    try:
        if not stamp.exists():
            home.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, timeout=INSTALL_S)
            subprocess.run([*pip, "-e", ".[demo,ray]", "psutil"], check=True, timeout=INSTALL_S, cwd=REPOSITORY)
            stamp.touch()
    except (subprocess.SubprocessError, OSError) as error:
        print(f"not run: Ray cannot be installed into {home} ({type(error).__name__})")
        return NOT_RUN
    return subprocess.run([str(python), "-m", "tests.faults.ray_campaign", *arguments], cwd=REPOSITORY).returncode


def main() -> None:
    """Run, record, judge."""
    parser = argparse.ArgumentParser(description="Kill actors, raylets, workers and the head of a Ray cluster.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", action="append", choices=NAMES, help="one of them; all without it")
    parser.add_argument("--no-record", action="store_true", help="leave results.jsonl as it is")
    options = parser.parse_args()
    if find_spec("ray") is None:
        sys.exit(elsewhere(sys.argv[1:]))
    made = tempfile.TemporaryDirectory(prefix="er-", dir="/tmp", ignore_cleanup_errors=True)
    with made as folder, RayHouse(Path(folder)) as house:
        lines = campaign(house, options.repeats, options.only or NAMES)
    conclude(lines, keep=not options.no_record)


if __name__ == "__main__":
    main()
