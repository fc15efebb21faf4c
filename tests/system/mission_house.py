"""The whole of Edgewise as processes over mTLS: a gateway, and agents that joined with tokens, one of them by Ray.

Beside `tests.fakes.processes.Fleet`, which speaks plaintext: here everybody is who their certificate says.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from orchestrator.client import Client
from tests.fakes.ports import free_address, free_port
from tests.fakes.processes import EDGEWISE, REPOSITORY, Fleet, NotReady, Running, is_settled

HAS_RAY = importlib.util.find_spec("ray") is not None
# Ray starts five processes of its own, each of which imports it.
START_S = 180.0
COMMAND_S = 240.0
QUICK = ("--profiling-s", "0.1", "--energy", "modelled")
PLACED, HOME, COMPILED = "cluster-box", "home", "pc"
DENSE = ("digits-linear", "digits-conv8")
PRUNED = ("digits-gated", "digits-gated-m80", "digits-gated-m60")
PERSONAL = "digits-lenet5"


@dataclass
class House:
    """A gateway with TLS and three agents. Use as a context manager.

    Args:
        folder: For state, logs and identities; the test's own.
        fleet: Starts processes, waits for them, and kills whatever is left of them.
    """

    folder: Path
    fleet: Fleet = field(init=False)
    ray_folder: Path | None = None

    def __post_init__(self) -> None:
        self.fleet = Fleet(self.folder)
        self.nodes_address = free_address()
        self.config = self.folder / "config.yaml"

    def __enter__(self) -> Self:
        self.fleet.__enter__()
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_ray()
        self.fleet.close()

    # ---- starting

    def _start(self) -> None:
        # A machine that others use as well may keep an agent from beating in time; no node is to be lost by that.
        calm = {"nodes": {"heartbeat_s": 1.0, "lease_s": 60.0}, "retries": {"suspect_after_s": 30.0}}
        self.config.write_text(yaml.safe_dump({"tls": {"mode": "on"}, **calm}))
        listen = ("--listen", self.fleet.address, "--http-listen", self.fleet.http_address)
        more = ("--nodes-listen", self.nodes_address, "--config", str(self.config), "--log", "json")
        self.fleet.gateway = self._run("gateway", [*EDGEWISE, "gateway", *listen, *more])
        self.fleet.wait_until(lambda: bool(self.gateway.events("gateway.listening")), "a gateway", timeout_s=START_S)
        self._join(HOME, "laptop-cpu", (PERSONAL, *PRUNED), *self._personal(), *QUICK)
        self._join(COMPILED, "rtx-4090", ("digits-mlp", "digits-wide"), "--compile", "digits-wide:int8", *QUICK)
        if HAS_RAY:
            self._place()
        else:
            self._join(PLACED, "jetson-agx-orin", DENSE, *QUICK)
        self.wait_settled()

    def _personal(self) -> tuple[str, ...]:
        return ("--personal", str(self.folder / "users"), "--personal-expert", PERSONAL, "--personal-day-j", "0")

    def _join(self, name: str, profile: str, experts: tuple[str, ...], *flags: str) -> None:
        with self.client() as client:
            made = client.create_token(name)
        offer = ("--name", name, "--profile", profile, "--experts", ",".join(experts), "--log", "json")
        command = [*EDGEWISE, "node", "join", made.url, "--token", made.text, *offer, *flags]
        self.fleet.agents[name] = self._run(name, command)

    def _place(self) -> None:
        """Have Ray place an agent, on a head that is started for it; sockets' paths must be short."""
        self.ray_folder = Path(tempfile.mkdtemp(prefix="ewray"))
        agent = {"name": PLACED, "profile": "jetson-agx-orin", "experts": [*DENSE], "arguments": [*QUICK]}
        cluster = {"address": "local", "port": free_port(), "folder": str(self.ray_folder), "num_cpus": 1}
        self.spec.write_text(yaml.safe_dump({"cluster": cluster, "agents": [agent]}))
        # Ray gives up on its own processes after half a minute, which a busy machine may need.
        if self.cli("ray", "up", "--spec", str(self.spec)).returncode:
            self.said("ray", "up", "--spec", str(self.spec))

    def _run(self, name: str, command: list[str]) -> Running:
        return self.fleet.start_beside(name, ["env", *self._settings(), *command])

    def _settings(self) -> list[str]:
        return [f"{name}={value}" for name, value in self.environment().items()]

    def environment(self) -> dict[str, str]:
        """What every process of the house is told, on top of the fleet's own."""
        state = self.folder / "state"
        own = {
            "EDGEWISE_STATE_DIR": str(state),
            "EDGEWISE_GATEWAY": self.fleet.address,
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            "XDG_DATA_HOME": str(self.folder / "data"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "OMP_NUM_THREADS": "1",
            # For the agent that Ray places: its file does not say it.
            "EDGEWISE_NODE_LOG": "json",
            "NO_COLOR": "1",
        }
        key = state / "admin.key"
        return own | ({"EDGEWISE_API_KEY_FILE": str(key)} if key.exists() else {})

    # ---- asking

    @property
    def spec(self) -> Path:
        """Which agents Ray runs."""
        return self.folder / "fleet.yaml"

    @property
    def gateway(self) -> Running:
        """The gateway's process."""
        assert self.fleet.gateway is not None
        return self.fleet.gateway

    @contextlib.contextmanager
    def client(self, timeout_s: float = 30.0) -> Iterator[Client]:
        """A client over TLS, with the operator's key."""
        key = self.folder / "state" / "admin.key"
        secret = key.read_text().strip() if key.exists() else None
        authority = self.folder / "state" / "identity" / "ca.pem"
        with Client(self.fleet.address, timeout_s=timeout_s, key=secret, ca_file=authority) as client:
            yield client

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run an `edgewise` command as the operator would, on the gateway's machine."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("EDGEWISE_", "RAY_"))}
        return subprocess.run(
            [*EDGEWISE, *arguments],
            cwd=REPOSITORY,
            env={**kept, **self.environment(), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
        )

    def said(self, *arguments: str) -> str:
        """What a command that must succeed printed."""
        done = self.cli(*arguments)
        assert done.returncode == 0, f"edgewise {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def wait_settled(self) -> None:
        """Until every agent is healthy and a certified plan spans them."""
        nodes = {PLACED, HOME, COMPILED}

        def settled() -> bool:
            for running in self.fleet.agents.values():
                if not running.alive:
                    raise NotReady(f"{running.name} ended\n{running.tail()}")
            with self.client() as client:
                return is_settled(client.status(), nodes)

        self.fleet.wait_until(settled, "all agents joined and planned for", timeout_s=START_S)

    # ---- leaving

    def leave(self) -> dict[str, dict[str, Any]]:
        """Have every agent finish and leave; what each said last, by name."""
        for running in self.fleet.agents.values():
            running.terminate()
        said = {name: running.events("left")[-1] for name, running in self.fleet.agents.items()}
        return said | self._leave_ray()

    def _leave_ray(self) -> dict[str, dict[str, Any]]:
        if self.ray_folder is None:
            return {}
        self.said("ray", "down", "--spec", str(self.spec))
        # What the agent says goes by way of its actor into Ray's files.
        self.fleet.wait_until(lambda: bool(self._said_to_ray("left")), f"last words of {PLACED}")
        return {PLACED: self._said_to_ray("left")[-1]}

    def _said_to_ray(self, event: str) -> list[dict[str, Any]]:
        assert self.ray_folder is not None
        lines = [line for file in self.ray_folder.rglob("worker-*.err") for line in file.read_text().splitlines()]
        return [entry for entry in map(_parsed, lines) if entry.get("event") == event]

    def _end_ray(self) -> None:
        """The head, and what it started; nothing of another cluster."""
        if self.ray_folder is None:
            return
        from nodes.ray.listeners import processes_of

        with contextlib.suppress(subprocess.TimeoutExpired):
            self.cli("ray", "down", "--spec", str(self.spec), "--stop-head")
        for pid in processes_of(self.ray_folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.ray_folder, ignore_errors=True)


def _parsed(line: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        entry = json.loads(line[line.index("{") :])
        return entry if isinstance(entry, dict) else {}
    return {}
