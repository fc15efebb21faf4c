"""What a chat over HTTP costs beside LiteLLM's proxy and TensorZero's embedded gateway: CPU, p50 and p99 at 16 callers.

One mock expert behind all of them, fan-out 1, blocks in turn. Edgewise: gateway process, agent process and the client's
process are counted apart; its agent asks the mock as any OpenAI-compatible server. LiteLLM: the proxy's process.
TensorZero runs inside its client's process; what is taken off for the bar of the gateway alone is the client with
nothing in between: the same calls straight to the mock. The mock itself is nobody's cost.

Beside them runs `http_relay`: what the gateway's libraries take with nothing of ours between them. It decides nothing
and keeps no books, so that no gateway on these libraries takes less: `floor_cpu_vs_*` is what the bars' ratios would be
with it, and a bar that is below its floor cannot be met this way. It holds no bar itself.

A second gateway of ours has every request take all of its steps in one go (`orchestrator.abreast` without effect): what
taking them together is worth.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from tests.bench.bench_gateway import family
from tests.bench.harness import Bar, Row, main, spread
from tests.bench.http_peers import LITELLM, TENSORZERO, install
from tests.fakes.ports import free_address, free_port

BARS = (
    Bar("gateway_cpu_vs_tensorzero", 1.0, "<="),
    Bar("gateway_cpu_vs_litellm", 1.0 / 30.0, "<="),
    Bar("total_cpu_vs_tensorzero", 2.0, "<="),
)
CALLERS = 16
BLOCKS = 10
CALLS = 25
START_S = 240.0
# It would look its prices up elsewhere first, and on loopback it needs no key any more than we do.
LITELLM_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
}
CALLER = Path(__file__).with_name("http_caller.py")
GATEWAY = "from orchestrator.cli.main import main; main()"
IN_ONE_GO = """
from orchestrator.abreast import Gathering
from orchestrator.admission import Admission

async def on(self): pass

Admission.aside, Gathering.take = on, lambda self, begin, *, alone: begin()
"""


@dataclass
class Peer:
    """One way from a client to the mock.

    Args:
        caller: The client's process.
        parts: Other processes on the way, by name.
    """

    name: str
    caller: subprocess.Popen[str]
    parts: dict[str, tuple[psutil.Process, ...]] = field(default_factory=dict)
    cpu_ms: dict[str, list[float]] = field(default_factory=dict)
    times_ms: list[float] = field(default_factory=list)

    def block(self, *, calls: int, keep: bool = True) -> None:
        """Run one block and keep its figures."""
        before = {part: _cpu_s(processes) for part, processes in self.parts.items()}
        reply = json.loads(self._ask(f"{CALLERS} {calls}\n"))
        spent = {part: _cpu_s(processes) - before[part] for part, processes in self.parts.items()}
        spent["client"] = reply["cpu_s"]
        if keep:
            self.times_ms += reply["times_ms"]
            for part, cpu_s in spent.items():
                self.cpu_ms.setdefault(part, []).append(cpu_s / (CALLERS * calls) * 1e3)

    def _ask(self, line: str) -> str:
        if self.caller.stdin is None or self.caller.stdout is None:
            raise SystemExit("a caller without pipes")
        self.caller.stdin.write(line)
        self.caller.stdin.flush()
        return self.caller.stdout.readline()

    def total_ms(self) -> list[float]:
        """CPU milliseconds per request of everything on the way, block by block."""
        return np.sum(list(self.cpu_ms.values()), axis=0).tolist()  # type: ignore[no-any-return]


def _cpu_s(processes: tuple[psutil.Process, ...]) -> float:
    return sum(_clock_s(process) for process in processes)


def _clock_s(process: psutil.Process) -> float:
    """User and system time; by the process's own clock where there is one, as ticks are 10 ms and blocks are short."""
    if platform.system() == "Linux":
        # What clock_getcpuclockid(3) gives.
        return time.clock_gettime((~process.pid << 3) | 2)
    return sum(process.cpu_times()[:2])


@contextlib.contextmanager
def started(*command: str, log: Path, talks: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A process, ended with the block; what it says goes to a file, unless it is one that is talked with."""
    with log.open("w") as said:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE if talks else said,
            stderr=said,
            text=True,
            env={**os.environ, **LITELLM_ENVIRONMENT},
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(url: str) -> bool:
    body = json.dumps({"model": "mock", "messages": [{"role": "user", "content": "x"}]}).encode()
    headers = {"content-type": "application/json", "authorization": "Bearer sk-none"}
    request = urllib.request.Request(url, body, headers)
    with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5) as reply:
        return bool(reply.status == 200)
    return False


def _wait(address: str) -> bool:
    """Whether something answers in time."""
    deadline_s = time.monotonic() + START_S
    while not _answers(f"http://{address}/v1/chat/completions"):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.2)
    return True


def _caller(stack: contextlib.ExitStack, python: str, kind: str, target: str, *, log: Path) -> subprocess.Popen[str]:
    caller = stack.enter_context(started(python, str(CALLER), kind, target, "mock", log=log, talks=True))
    # TensorZero says something of its own before.
    for line in caller.stdout or ():
        if line.strip() == "ready":
            return caller
    raise SystemExit(f"the caller of {kind} does not start: {log.read_text()[-500:]}")


def _edgewise(stack: contextlib.ExitStack, url: str, folder: Path, name: str = "edgewise", first: str = "") -> Peer:
    """A gateway that does `first` before it starts, and an agent."""
    folder = folder / name
    folder.mkdir()
    grpc, http = free_address(), free_address()
    arguments = ["gateway", "--listen", grpc, "--http-listen", http, "--state-dir", str(folder / "state")]
    gateway = stack.enter_context(started(sys.executable, "-c", first + GATEWAY, *arguments, log=folder / "gateway"))
    node = ["--gateway", grpc, "--name", "bench", "--openai", url, "--concurrency", "16"]
    agent = stack.enter_context(started(sys.executable, "-m", "nodes", "run", *node, log=folder / "agent"))
    if not _wait(http):
        raise SystemExit(f"the gateway does not answer: {(folder / 'agent').read_text()[-500:]}")
    # What plans is a process of its own and gives way to requests; it is no part of a request.
    parts = {"gateway": (psutil.Process(gateway.pid),), "agent": family(agent.pid)}
    return Peer(name, _caller(stack, sys.executable, "http", http, log=folder / "caller"), parts)


def _floor(stack: contextlib.ExitStack, folder: Path) -> Peer:
    http, grpc = free_port(), free_port()
    relay = (sys.executable, "-m", "tests.bench.http_relay")
    gateway = stack.enter_context(started(*relay, "gateway", str(http), str(grpc), log=folder / "relay"))
    node = stack.enter_context(started(*relay, "node", str(grpc), log=folder / "relay-node"))
    if not _wait(f"127.0.0.1:{http}"):
        raise SystemExit(f"the relay does not answer: {(folder / 'relay').read_text()[-500:]}")
    parts = {"gateway": family(gateway.pid), "node": family(node.pid)}
    return Peer("floor", _caller(stack, sys.executable, "http", f"127.0.0.1:{http}", log=folder / "relayed"), parts)


def _litellm(stack: contextlib.ExitStack, url: str, folder: Path) -> Peer | None:
    python = install("litellm")
    if python is None:
        return None
    config, address = folder / "litellm.yaml", free_address()
    config.write_text(LITELLM.format(url=url))
    command = [str(python.with_name("litellm")), "--config", str(config), "--host", "127.0.0.1"]
    proxy = stack.enter_context(started(*command, "--port", address.split(":")[1], log=folder / "litellm"))
    if not _wait(address):
        print(f"litellm: not run, it does not answer within {START_S:g} s")
        return None
    caller = _caller(stack, sys.executable, "http", address, log=folder / "litellm-caller")
    return Peer("litellm", caller, {"gateway": family(proxy.pid)})


def _tensorzero(stack: contextlib.ExitStack, url: str, folder: Path) -> Peer | None:
    python = install("tensorzero")
    if python is None:
        return None
    config = folder / "tensorzero.toml"
    config.write_text(TENSORZERO.format(url=url))
    return Peer("tensorzero", _caller(stack, str(python), "tensorzero", str(config), log=folder / "tensorzero"))


def _measure() -> list[Row]:
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        mock = ("-m", "tests.fakes.openai_server", str(port))
        stack.enter_context(started(sys.executable, *mock, log=folder / "mock"))
        url, address = f"http://127.0.0.1:{port}/v1", f"127.0.0.1:{port}"
        if not _wait(address):
            raise SystemExit("the mock does not answer")
        direct = Peer("direct", _caller(stack, sys.executable, "http", address, log=folder / "direct"))
        together = _edgewise(stack, url, folder)
        alone = _edgewise(stack, url, folder, "in_one_go", IN_ONE_GO)
        ours = [direct, together, alone, _floor(stack, folder)]
        found = [*ours, _tensorzero(stack, url, folder), _litellm(stack, url, folder)]
        peers = {peer.name: peer for peer in found if peer is not None}
        for peer in peers.values():
            peer.block(calls=CALLS, keep=False)
        for _ in range(BLOCKS):
            for peer in peers.values():
                peer.block(calls=CALLS)
        return _rows(peers)


def _rows(peers: dict[str, Peer]) -> list[Row]:
    sizes: dict[str, object] = {"callers": CALLERS, "blocks": BLOCKS, "calls": CALLS}
    figures: dict[str, tuple[list[float], str]] = {}
    for name, peer in peers.items():
        for part, values in peer.cpu_ms.items():
            figures[f"cpu_ms_{name}_{part}"] = values, "ms"
    names = ("edgewise", "floor", "in_one_go")
    gateway, floor, in_one_go = (np.array(peers[name].cpu_ms["gateway"]) for name in names)
    figures["gateway_cpu_vs_in_one_go"] = (gateway / in_one_go).tolist(), "ratio"
    if "tensorzero" in peers:
        total = np.array(peers["tensorzero"].total_ms())
        alone = np.maximum(total - np.array(peers["direct"].total_ms()), 1e-9)
        figures["gateway_cpu_vs_tensorzero"] = (gateway / alone).tolist(), "ratio"
        figures["floor_cpu_vs_tensorzero"] = (floor / alone).tolist(), "ratio"
        figures["total_cpu_vs_tensorzero"] = (np.array(peers["edgewise"].total_ms()) / total).tolist(), "ratio"
    if "litellm" in peers:
        proxy = np.array(peers["litellm"].cpu_ms["gateway"])
        figures["gateway_cpu_vs_litellm"] = (gateway / proxy).tolist(), "ratio"
        figures["floor_cpu_vs_litellm"] = (floor / proxy).tolist(), "ratio"
    rows = []
    for metric, (values, unit) in figures.items():
        low, middle, high = spread(values)
        rows.append(Row(metric, middle, unit, {**sizes, "quartiles": [low, high]}))
    for name, peer in peers.items():
        for quantile in (50, 99):
            value = float(np.percentile(peer.times_ms, quantile))
            rows.append(Row(f"p{quantile}_ms_{name}", value, "ms", sizes))
    return rows


def run() -> list[Row]:
    """All rows; a peer that cannot be installed has none, and its bars are not held."""
    return _measure()


if __name__ == "__main__":
    main(stem="http", run=run, bars=BARS)
