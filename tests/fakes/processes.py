"""A real gateway and real agents as processes of their own, on free ports, with their logs in files.

Nothing outlives the `Fleet` that started it: each process leads its own group, and `close` kills whole groups, also
stopped ones, and whatever else was started with the fleet's folder in its environment.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from orchestrator.client import Client
from orchestrator.client.types import FleetStatus
from orchestrator.errors import EdgewiseError
from tests.fakes.ports import free_address

REPOSITORY = Path(__file__).parents[2]
EDGEWISE = (sys.executable, "-c", "from orchestrator.cli.main import main; main()")
NODES = (sys.executable, "-m", "nodes")
START_S = 40.0
STOP_S = 15.0
POLL_S = 0.05


class NotReady(Exception):
    """Something did not come up; the text ends with the log's last lines."""


@dataclass(frozen=True)
class NodePlan:
    """One agent to start."""

    name: str
    profile: str
    experts: tuple[str, ...] = ()
    flags: tuple[str, ...] = ("--profiling-s", "0.1")

    def arguments(self, gateway: str) -> list[str]:
        """Its command line after `python -m nodes`."""
        chosen = ["--experts", ",".join(self.experts)] if self.experts else []
        return ["run", "--gateway", gateway, "--name", self.name, "--profile", self.profile, *chosen, *self.flags]


@dataclass
class Running:
    """A process that was started, and where it logs."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Process id; also the id of its group."""
        return self.popen.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.popen.poll() is None

    def children(self) -> list[psutil.Process]:
        """Its descendants."""
        return psutil.Process(self.pid).children(recursive=True)

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the process and all of its descendants."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """`kill -9` of this process alone, as an operator or the kernel would."""
        self.popen.kill()
        self.popen.wait(STOP_S)

    def terminate(self) -> int:
        """SIGTERM, then the exit code."""
        self.popen.terminate()
        return self.popen.wait(STOP_S)

    def end_group(self) -> None:
        """Kill whatever is left of the group."""
        self.signal_group(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(STOP_S)

    def tail(self, lines: int = 15) -> str:
        """The end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's JSON lines of one event, oldest first; a line that is still being written is left out."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and entry.get("event") == name:
                    found.append(entry)
        return found


@dataclass
class Fleet:
    """A gateway and its agents. Use as a context manager.

    Args:
        folder: For state and logs; the test's own.
        settings: Environment of the gateway, e.g. ``{"EDGEWISE_RETRIES__ENABLED": "false"}``.
        edgewise: Runs the command line of the gateway.
        one_session: All processes stay in this one's session. Linux shares the processor out between sessions before it
            looks at priorities (autogroup), so in sessions of their own those that give way do not.
    """

    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    edgewise: Sequence[str] = EDGEWISE
    one_session: bool = False
    gateway: Running | None = None
    agents: dict[str, Running] = field(default_factory=dict)
    plans: dict[str, NodePlan] = field(default_factory=dict)
    address: str = field(default_factory=free_address)
    http_address: str = field(default_factory=free_address)
    _started: list[Running] = field(default_factory=list)

    def __enter__(self) -> Self:
        atexit.register(self.close)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill everything that was started here."""
        atexit.unregister(self.close)
        for running in self._started:
            if running.alive:
                running.end_group()
        # A leader that is gone may have left others behind, and its group's number may belong to somebody else now.
        for process in _started_in(self.folder):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    # ---- starting

    def start_gateway(self, settings: Mapping[str, str] | None = None) -> Running:
        """Start the gateway (again, on the same ports); `settings` replace those given before."""
        if settings is not None:
            self.settings = settings
        listen = ["--listen", self.address, "--http-listen", self.http_address]
        state = ["--state-dir", str(self.folder / "state"), "--log", "json"]
        self.gateway = self._start("gateway", [*self.edgewise, "gateway", *listen, *state], self.settings)
        return self.gateway

    def start_agent(self, plan: NodePlan) -> Running:
        """Start an agent.

        Raises:
            ValueError: One of the same name still runs.
        """
        if plan.name in self.agents and self.agents[plan.name].alive:
            raise ValueError(f"an agent {plan.name} still runs")
        self.plans[plan.name] = plan
        agent = self._start(plan.name, [*NODES, *plan.arguments(self.address), "--log", "json"], {})
        self.agents[plan.name] = agent
        return agent

    def start_process(self, name: str, command: list[str]) -> Running:
        """Start an agent of another making; it is waited for like the others."""
        self.agents[name] = self._start(name, command, {})
        return self.agents[name]

    def start(self, *plans: NodePlan) -> Self:
        """Start the gateway and agents, and wait until all of them are planned for."""
        self.start_gateway()
        for plan in plans:
            self.start_agent(plan)
        self.wait_ready()
        return self

    def start_beside(self, name: str, command: list[str]) -> Running:
        """Start anything else that must not outlive the fleet."""
        return self._start(name, command, {})

    def _start(self, name: str, command: list[str], settings: Mapping[str, str]) -> Running:
        log = self.folder / f"{len(self._started) + 1:02d}-{name}.log"
        with log.open("wb") as stream:
            popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                cwd=REPOSITORY,
                env={**_clean_environment(self.folder), **settings},
                start_new_session=not self.one_session,
                process_group=0 if self.one_session else None,
            )
        self._started.append(Running(name, popen, log))
        return self._started[-1]

    # ---- waiting

    def wait_ready(self) -> None:
        """Wait until /readyz says yes, every agent is healthy and a certified plan knows all arms.

        Raises:
            NotReady: A process ended, or it took too long.
        """
        self.wait_until(self._is_ready, "all nodes healthy and planned for")

    def wait_until(self, holds: Callable[[], bool], what: str, *, timeout_s: float = START_S) -> float:
        """Poll until `holds`; returns the seconds that it took.

        Raises:
            NotReady: It did not hold in time.
        """
        started_s = time.monotonic()
        while time.monotonic() - started_s < timeout_s:
            if holds():
                return time.monotonic() - started_s
            time.sleep(POLL_S)
        tails = "\n".join(
            f"--- {running.name} ({'runs' if running.alive else f'ended with {running.popen.returncode}'})\n"
            f"{running.tail()}"
            for running in (self.gateway, *self.agents.values())
            if running is not None
        )
        raise NotReady(f"not within {timeout_s:g} s: {what}\n{tails}")

    def _is_ready(self) -> bool:
        if http_get(f"http://{self.http_address}/readyz")[0] != 200:
            return False
        status = self.status()
        return status is not None and is_settled(status, set(self.agents))

    def status(self) -> FleetStatus | None:
        """What the gateway says of its fleet; None where nobody answers."""
        with contextlib.suppress(EdgewiseError), self.client(timeout_s=2.0) as client:
            return client.status()
        return None

    def state_of(self, node: str) -> str:
        """A node's state; "unknown" where the gateway does not answer or does not know it."""
        status = self.status()
        states = {entry.node: entry.state for entry in status.nodes} if status else {}
        return states.get(node, "unknown")

    @contextlib.contextmanager
    def client(self, timeout_s: float = 10.0) -> Iterator[Client]:
        """A client of the gateway."""
        with Client(self.address, timeout_s=timeout_s) as client:
            yield client

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run an `edgewise` command against this gateway."""
        environment = {**_clean_environment(self.folder), "EDGEWISE_GATEWAY": self.address, "COLUMNS": "160"}
        return subprocess.run(
            [*EDGEWISE, *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60
        )


def is_settled(status: FleetStatus, nodes: set[str]) -> bool:
    """Whether all these nodes are healthy and every task has a certified plan that was made since they came."""
    healthy = {entry.node for entry in status.nodes if entry.state == "healthy"}
    planned = bool(status.tasks) and all(
        task.certificate.status == "optimal" and _spans(task.active_arms, nodes) for task in status.tasks
    )
    return nodes <= healthy and planned


def _spans(active_arms: tuple[str, ...], nodes: set[str]) -> bool:
    return nodes <= {arm.rpartition("@")[2] for arm in active_arms}


def http_get(url: str, timeout_s: float = 2.0) -> tuple[int, str]:
    """Status and body; status 0 where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except (OSError, ValueError):
        return 0, ""


def _started_in(folder: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("XDG_CONFIG_HOME") == _config_home(folder):
                yield process


def _config_home(folder: Path) -> str:
    return str(folder / "config")


def _clean_environment(folder: Path) -> dict[str, str]:
    """This process's environment without what would configure Edgewise; the user's own files are out of reach."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGEWISE_")}
    return {**kept, "XDG_CONFIG_HOME": _config_home(folder), "NO_COLOR": "1"}
