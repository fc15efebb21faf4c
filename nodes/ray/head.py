"""A Ray head on this machine: started with a token and told where to listen, looked at afterwards, stopped by process.

`ray stop` would end every cluster of the machine; here only what belongs to this folder ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from nodes.ray import guard
from nodes.ray.errors import ClusterLost, ClusterRefused
from nodes.ray.listeners import open_ports, processes_of
from nodes.ray.spec import ClusterSpec

RAY = (sys.executable, "-c", "from ray.scripts.scripts import main; main()")
START_S = 90.0
STOP_S = 8.0
POLL_S = 0.1
# A dead Ray node is noticed after 3 s instead of 15, and what runs survives a day without a head instead of a minute.
HEALTH = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "86400",
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}

Say = Callable[[str], None]


def ensure_head(cluster: ClusterSpec, say: Say) -> None:
    """Start the head of a cluster whose address is ``local``, unless it runs.

    Raises:
        ClusterRefused: It would listen, or listens, further than was said, or its token is not fit.
        ClusterLost: It does not start.
    """
    check_reach(cluster)
    guard.check_environment(os.environ)
    cluster.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    cluster.home.chmod(0o700)
    guard.make_token(cluster.token_path)
    guard.with_token(cluster.token_path, os.environ)
    if guard.knock(cluster.target) is guard.Door.SILENT:
        say(f"starting a Ray head at {cluster.target}")
        _start(cluster)
    guard.check_cluster(cluster.target)
    _look_at(cluster, say)


def check_reach(cluster: ClusterSpec) -> None:
    """Refuse a head that others could reach without anybody having said so.

    Raises:
        ClusterRefused: It listens beyond loopback and nobody says that it is behind a firewall.
    """
    if not guard.is_loopback(cluster.target) and not cluster.behind_firewall:
        why = f"beyond loopback Ray listens on every interface, not on {cluster.listen} alone"
        cure = "keep others away with a firewall or a network of its own, then write `behind_firewall: true`"
        raise ClusterRefused(why, cure)


def start_command(cluster: ClusterSpec) -> list[str]:
    """How the head is started."""
    labels = ",".join(f"{key}={value}" for key, value in cluster.labels.items())
    return [
        *RAY,
        "start",
        "--head",
        f"--node-ip-address={cluster.listen}",
        f"--port={cluster.port}",
        f"--temp-dir={cluster.home}",
        f"--object-store-memory={cluster.object_store_mib * 2**20}",
        "--include-dashboard=false",
        "--disable-usage-stats",
        "--log-style=record",
        "--log-color=false",
        *([f"--num-cpus={cluster.num_cpus:g}"] if cluster.num_cpus is not None else []),
        *([f"--labels={labels}"] if labels else []),
    ]


def start_environment(cluster: ClusterSpec, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of the head; what the operator set about health stays."""
    narrow = {guard.LOOPBACK_SWITCH: "0"} if guard.is_loopback(cluster.target) else {}
    return {**HEALTH, **environment, **narrow}


def stop_head(cluster: ClusterSpec) -> int:
    """End every process of the folder's cluster; returns how many there were."""
    found = processes_of(cluster.home)
    _send(found, signal.SIGTERM)
    until_s = time.monotonic() + STOP_S
    while (left := processes_of(cluster.home) | {pid for pid in found if _alive(pid)}) and time.monotonic() < until_s:
        time.sleep(POLL_S)
    _send(left, signal.SIGKILL)
    return len(found)


def _start(cluster: ClusterSpec) -> None:
    environment = start_environment(cluster, os.environ)
    try:
        ended = subprocess.run(
            start_command(cluster),
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_S,
        )
    except subprocess.TimeoutExpired as error:
        stop_head(cluster)
        raise ClusterLost(f"the Ray head did not start within {START_S:g} s", f"look into {cluster.home}") from error
    if ended.returncode:
        stop_head(cluster)
        why = f"the Ray head did not start ({last_words(ended.stderr, ended.stdout)})"
        raise ClusterLost(why, f"is port {cluster.port} free? The logs are in {cluster.home}")


def last_words(errors: str, output: str) -> str:
    """Why Ray ended: the end of its errors, which its chatter on stdout does not tell."""
    lines = [line.strip() for text in (output, errors) for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it says nothing"


def _look_at(cluster: ClusterSpec, say: Say) -> None:
    ports = open_ports(processes_of(cluster.home))
    if ports and guard.is_loopback(cluster.target):
        stop_head(cluster)
        why = f"the Ray head listened to every interface on port {json.dumps(ports)[1:-1]}, so it was stopped"
        raise ClusterRefused(why, "compare Ray's version with constraints.txt")
    if ports:
        say(f"Ray listens to every interface on ports {json.dumps(ports)[1:-1]}; only a firewall keeps others away")


def _send(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False
