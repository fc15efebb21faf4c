"""Joining by the printed line with real processes, once on this machine and once between two network namespaces.

In the second, the node's side of the cable refuses every connection from outside: nodes need no open port.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from nodes.identity.folder import load, save
from nodes.identity.keys import request_for
from nodes.zoo.catalog import load_catalog
from orchestrator.identity.authority import Authority
from tests.fakes.ports import free_address
from tests.fakes.processes import EDGEWISE, REPOSITORY, START_S, Running

pytestmark = pytest.mark.system

GATEWAY_SPACE, NODE_SPACE = f"ewgw{os.getpid()}", f"ewno{os.getpid()}"
GATEWAY_ADDRESS, NODE_ADDRESS = "10.213.7.1", "10.213.7.2"
RUN = (
    "--name",
    "box",
    "--profile",
    "laptop-cpu",
    "--experts",
    "digits-linear",
    "--profiling-s",
    "0.1",
    "--log",
    "json",
)


@dataclass
class House:
    """Processes of one test, each with its log; all of them end with it."""

    folder: Path
    started: list[Running] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGEWISE_")}
        homes = {"XDG_CONFIG_HOME": str(self.folder / "config"), "XDG_DATA_HOME": str(self.folder / "data")}
        file = self.folder / "gateway" / "admin.key"
        key = {"EDGEWISE_API_KEY_FILE": str(file)} if file.exists() else {}
        return kept | homes | key | {"EDGEWISE_STATE_DIR": str(self.folder / "gateway"), "NO_COLOR": "1"}

    def start(self, name: str, *command: str) -> Running:
        log = self.folder / f"{name}.log"
        with log.open("wb") as stream:
            popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                cwd=REPOSITORY,
                env=self.environment(),
                start_new_session=True,
            )
        self.started.append(Running(name, popen, log))
        return self.started[-1]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=REPOSITORY, env=self.environment(), capture_output=True, text=True, timeout=60
        )

    def close(self) -> None:
        for running in self.started:
            running.end_group()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    with contextlib.closing(house):
        yield house


def wait_for(what: Callable[[], bool], *looked_at: Running) -> None:
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s:
        if what():
            return
        time.sleep(0.05)
    raise AssertionError("\n".join(f"--- {running.name}\n{running.tail()}" for running in looked_at))


def line_of(gateway: Running) -> list[str]:
    """The line that the gateway prints, word by word."""
    lines = [line for line in gateway.log.read_text().splitlines() if line.startswith("edgewise node join ")]
    return lines[0].split()[1:] if lines else []


def has_joined(gateway: Running) -> bool:
    return bool(gateway.events("node.joined"))


def test_one_line_joins_a_node_and_revoking_ends_it(house: House) -> None:
    clients, http, nodes = (free_address() for _ in range(3))
    listen = ("--listen", clients, "--http-listen", http, "--nodes-listen", nodes)
    gateway = house.start("gateway", *EDGEWISE, "gateway", *listen, "--tls", "on", "--log", "json")
    wait_for(lambda: bool(line_of(gateway)), gateway)
    line = line_of(gateway)
    # A slip in the options of `run` does not cost the token.
    slip = house.run(*EDGEWISE, *line, "--profil", "laptop-cpu")
    assert (slip.returncode, "--profil" in slip.stderr) == (2, True)
    node = house.start("node", *EDGEWISE, *line, *RUN)
    wait_for(lambda: has_joined(gateway), gateway, node)

    # On the gateway's own machine its authority is found by itself.
    ask = (*EDGEWISE, "--gateway", clients)
    assert "box" in house.run(*ask, "status").stdout
    again = house.run(*EDGEWISE, *line, "--name", "other", "--no-run")
    assert (again.returncode, "CREDENTIAL_INVALID" in again.stderr) == (5, True)
    assert house.run(*ask, "node", "revoke", "box").returncode == 0
    assert node.popen.wait(5.0) == 5
    assert "IDENTITY_REVOKED" in node.tail()

    # What failed in TLS is counted by its reason, at every port.
    before = failures(house, http)
    for port in (nodes, http):
        send_plaintext(port)
    shake_hands(nodes)
    wanted = {("grpc", "plaintext"), ("grpc", "no_certificate"), ("https", "plaintext")}
    wait_for(lambda: failures(house, http) == dict.fromkeys(wanted, 1.0) | before, gateway)
    assert before == {}
    assert gateway.terminate() == 0


def failures(house: House, http: str) -> dict[tuple[str, str], float]:
    """Handshakes that failed, by port and reason, as the metrics say."""
    trusted = ssl.create_default_context(cafile=str(house.folder / "gateway" / "identity" / "ca.pem"))
    with urllib.request.urlopen(f"https://{http}/metrics", context=trusted, timeout=5) as reply:
        lines = reply.read().decode().splitlines()
    found = re.findall(r'edgewise_tls_failures_total\{port="(\w+)",reason="(\w+)"\} (\S+)', "\n".join(lines))
    return {(port, reason): float(count) for port, reason, count in found}


def send_plaintext(address: str) -> None:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as stream:
        stream.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(OSError):
            stream.recv(64)


def shake_hands(address: str) -> None:
    """As somebody without a certificate."""
    host, _, port = address.rpartition(":")
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    anybody.set_alpn_protocols(["h2"])
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=5) as stream:
        anybody.wrap_socket(stream).recv(64)


# ---- two machines


@pytest.fixture
def cable() -> Iterator[None]:
    """Two network namespaces with a cable between them; on the node's side nobody gets in."""
    try:
        for step in _laying():
            subprocess.run(step, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        _cut()
        pytest.skip(f"network namespaces are not permitted here: {error}")
    yield
    _cut()


def _laying() -> list[list[str]]:
    def inside(space: str, *command: str) -> list[str]:
        return ["ip", "netns", "exec", space, *command]

    ends = {GATEWAY_SPACE: ("ewg0", GATEWAY_ADDRESS), NODE_SPACE: ("ewn0", NODE_ADDRESS)}
    steps = [["ip", "netns", "add", space] for space in ends]
    steps.append(
        ["ip", "link", "add", "ewg0", "netns", GATEWAY_SPACE, "type", "veth", "peer", "ewn0", "netns", NODE_SPACE]
    )
    for space, (device, address) in ends.items():
        steps.append(inside(space, "ip", "addr", "add", f"{address}/24", "dev", device))
        steps += [inside(space, "ip", "link", "set", name, "up") for name in (device, "lo")]
    return steps


def _cut() -> None:
    for space in (GATEWAY_SPACE, NODE_SPACE):
        subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)


def listeners(space: str) -> list[str]:
    """Addresses on which somebody listens in a namespace, loopback left out."""
    found = subprocess.run(
        ["ip", "netns", "exec", space, "ss", "-Hltn"], capture_output=True, text=True, check=True
    ).stdout
    addresses = [line.split()[3] for line in found.splitlines()]
    return [address for address in addresses if not address.startswith(("127.", "[::1]"))]


def outlive(authority_folder: Path, node_folder: Path) -> None:
    """The node has another certificate of the gateway's authority, for the same key, which expired a second ago."""
    authority = Authority(authority_folder, clock_unix_s=time.time)
    authority.node_life_s = -1.0
    identity = load(node_folder)
    request = authority.read_request(request_for(identity.name, identity.key_pem), identity.name)
    save(node_folder, replace(identity, certificate_pem=authority.issue_node(request, identity.name).pem))


@pytest.mark.usefixtures("cable")
def test_between_two_machines_nodes_need_no_open_port(house: House) -> None:
    there, here = (("ip", "netns", "exec", space) for space in (GATEWAY_SPACE, NODE_SPACE))
    listen = ("--listen", "0.0.0.0:8421", "--http-listen", "0.0.0.0:8420")
    gateway = house.start("gateway", *there, *EDGEWISE, "gateway", *listen, "--log", "json")
    wait_for(lambda: bool(line_of(gateway)), gateway)
    line = line_of(gateway)
    assert any(GATEWAY_ADDRESS in word for word in line), line
    node = house.start("node", *here, *EDGEWISE, *line, *RUN)
    wait_for(lambda: has_joined(gateway), gateway, node)
    assert listeners(NODE_SPACE) == []

    # A client on the node's machine, with TLS: what it asks is answered over the connection that the node opened.
    ask = (
        *here,
        *EDGEWISE,
        "--gateway",
        f"{GATEWAY_ADDRESS}:8421",
        "--ca",
        str(house.folder / "gateway/identity/ca.pem"),
    )
    shown = house.run(*ask, "status")
    assert (shown.returncode, "box" in shown.stdout) == (0, True), shown.stderr
    digit = house.folder / "digit.npy"
    np.save(digit, load_catalog().held_out.inputs[0])
    answered = house.run(*ask, "infer", str(digit), "-o", "json")
    assert json.loads(answered.stdout)["label"] == str(load_catalog().held_out.labels_n[0]), answered.stderr

    # Who comes with a used token, with another gateway's, or with a token for another name is told which it is.
    operator = (*there, *EDGEWISE, "--gateway", f"{GATEWAY_ADDRESS}:8421")
    bound = json.loads(house.run(*operator, "token", "create", "--name", "mine", "-o", "json").stdout)["text"]
    for token, name, said in (
        (line[-1], "again", "CREDENTIAL_INVALID"),
        (f"K10{'0' * 64}::{bound.partition('::')[2]}", "mine", "was not sent"),
        (bound, "thief", "CREDENTIAL_INVALID"),
    ):
        turned_away = house.run(*here, *EDGEWISE, *line[:-1], token, "--name", name, "--no-run")
        assert (turned_away.returncode, said in turned_away.stderr) == (5, True), turned_away.stderr
    # Control: under its own name the last one is good.
    assert house.run(*here, *EDGEWISE, *line[:-1], bound, "--name", "mine", "--no-run").returncode == 0

    # So is who shows another one's certificate, or one that has expired.
    mine, thief = (house.folder / "data/edgewise/node" / name for name in ("mine", "thief"))
    save(thief, replace(load(mine), name="box"))
    as_box = house.run(*here, *EDGEWISE, "node", "run", "--identity", str(thief), *RUN)
    assert (as_box.returncode, "another name than its certificate" in as_box.stderr) == (5, True), as_box.stderr
    outlive(house.folder / "gateway/identity", mine)
    late = house.run(*here, *EDGEWISE, "node", "run", *RUN, "--name", "mine")
    assert (late.returncode, "own certificate expired" in late.stderr) == (5, True), late.stderr

    assert house.run(*operator, "node", "revoke", "box").returncode == 0
    revoked_s = time.monotonic()
    refused = house.run(*ask, "infer", str(digit))
    assert (refused.returncode, "no connected node" in refused.stderr) == (6, True), refused.stderr
    assert node.popen.wait(5.0) == 5
    assert time.monotonic() - revoked_s < 5.0
    gateway.popen.send_signal(signal.SIGTERM)
    assert gateway.popen.wait(15.0) == 0
