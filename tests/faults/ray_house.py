"""What the faults of a Ray cluster act on: a gateway, a plain agent beside it, a cluster, and agents that it runs."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from nodes.ray.guard import make_token
from nodes.ray.listeners import processes_of
from tests.fakes.ports import free_address
from tests.fakes.processes import EDGEWISE, REPOSITORY, Fleet, NodePlan

START_S = 120.0
ORDER_S = 60.0
EXPERT = "digits-conv8"
PLAIN = NodePlan("plain", "laptop-cpu", (EXPERT,))
MOVER, ALPHA, BETA = "mover", "alpha", "beta"
QUICK = ["--profiling-s", "0.1", "--energy", "modelled"]


@dataclass
class Child:
    """A process that answers lines with lines of JSON."""

    popen: subprocess.Popen[str]
    _lines: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self._lines.put(line)
        self._lines.put("{}")

    def told(self, timeout_s: float = ORDER_S) -> dict[str, Any]:
        """The next line."""
        told: dict[str, Any] = json.loads(self._lines.get(timeout=timeout_s))
        return told

    def order(self, line: str) -> dict[str, Any]:
        """Say something and wait for the answer."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()
        return self.told()

    def close(self) -> None:
        """Let it end by itself, which ends what it started; then make sure."""
        assert self.popen.stdin is not None
        self.popen.stdin.close()
        try:
            self.popen.wait(30.0)
        except subprocess.TimeoutExpired:
            self.popen.kill()


class RayHouse:
    """See the module. Use as a context manager.

    Args:
        folder: The campaign's own; its path is short, as sockets' must be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fleet = Fleet(folder)
        self.token = folder / "cluster" / "token"
        make_token(self.token)
        self._children: list[Child] = []
        self.secure: subprocess.Popen[bytes] | None = None
        self.told: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self.fleet.__enter__()
        try:
            compiling = [sys.executable, "-m", "compileall", "-q", "nodes", "kernels", "proto"]
            subprocess.run(compiling, cwd=REPOSITORY, env=self.environment(), check=True, timeout=START_S)
            self.fleet.start_gateway()
            self.fleet.start_agent(PLAIN)
            self.cluster = self.start_cluster(self.folder / "cluster")
            self.told = self.cluster.told(START_S)
            self.write_spec(self.folder / "fleet.yaml", str(self.told["address"]), self.token)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            child.close()
        if self.secure is not None:
            self.secure.kill()
            self.secure.wait()
        self.fleet.close()
        # What Ray leaves behind where a raylet was killed.
        for cluster in ("cluster", "open"):
            for pid in processes_of(self.folder / cluster / "ray"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def start_cluster(self, folder: Path, *arguments: str) -> Child:
        """Start a cluster's process."""
        return self.start("tests.faults.ray_cluster", str(folder), *arguments)

    def start(self, module: str, *arguments: str) -> Child:
        """Start a module that answers in JSON."""
        with (self.folder / f"{module}-{len(self._children)}.log").open("wb") as log:
            popen = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=REPOSITORY,
                env=self.environment(),
                start_new_session=True,
            )
        self._children.append(Child(popen))
        return self._children[-1]

    def environment(self) -> dict[str, str]:
        """Of everything that speaks to the cluster."""
        own = ("EDGEWISE_", "RAY_", "PYTHONDONTWRITEBYTECODE")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        # An installed package is compiled, this checkout may not be: a third of what an agent takes to start.
        kept["PYTHONPYCACHEPREFIX"] = str(self.folder / "compiled")
        homes = {"XDG_CONFIG_HOME": str(self.folder / "config"), "XDG_DATA_HOME": str(self.folder / "data")}
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NO_COLOR": "1"}
        return {**kept, **homes, **one_thread, "RAY_AUTH_TOKEN_PATH": str(self.token)}

    def edgewise(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run an `edgewise` command against this gateway."""
        environment = {**self.environment(), "EDGEWISE_GATEWAY": self.fleet.address, **settings}
        return subprocess.run(
            [*EDGEWISE, *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=START_S
        )

    def ray(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `edgewise ray VERB` with the campaign's spec."""
        return self.edgewise("ray", verb, "--spec", str(self.folder / "fleet.yaml"), *arguments)

    def rows(self) -> dict[str, dict[str, Any]]:
        """What `edgewise ray status` says, by agent."""
        return {row["name"]: row for row in json.loads(self.ray("status", "-o", "json").stdout)}

    def start_secure_gateway(self) -> dict[str, str]:
        """A gateway that speaks TLS; what an operator's environment says to reach it."""
        state, addresses = self.folder / "secure", [free_address() for _ in range(3)]
        flags = ("--listen", "--http-listen", "--nodes-listen")
        listen = [part for pair in zip(flags, addresses, strict=True) for part in pair]
        with (self.folder / "secure.log").open("wb") as log:
            self.secure = subprocess.Popen(
                [*EDGEWISE, "gateway", *listen, "--tls", "on", "--state-dir", str(state), "--log", "json"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
                env=self.environment(),
                start_new_session=True,
            )
        listening = "gateway.listening"
        self.fleet.wait_until(lambda: listening in (self.folder / "secure.log").read_text(), "a gateway with TLS")
        return {"EDGEWISE_GATEWAY": addresses[0], "EDGEWISE_CA": str(state / "identity" / "ca.pem")}

    def write_spec(self, path: Path, address: str, token: Path) -> None:
        """One agent that may be on either worker, and one for each."""
        agents = [
            agent(MOVER, EXPERT, {"edgewise.pool": "edge"}),
            agent(ALPHA, "digits-linear", {"edgewise.device": "device-a"}),
            agent(BETA, "digits-linear", {"edgewise.device": "device-b"}),
        ]
        write(path, address, token, agents)


def write(path: Path, address: str, token: Path, agents: list[dict[str, Any]]) -> None:
    """A spec's file."""
    path.write_text(yaml.safe_dump({"cluster": {"address": address, "token_file": str(token)}, "agents": agents}))


def agent(name: str, expert: str, labels: dict[str, str]) -> dict[str, Any]:
    own = {"name": name, "num_cpus": 0.0, "labels": labels, "experts": [expert]}
    return {**own, "profile": "jetson-agx-orin", "arguments": QUICK}
