"""Two gateways with TLS over one PostgreSQL store, and a node that joined one of them by its line.

Processes over real sockets; skipped loudly where there is no PostgreSQL.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deploy import postgres
from tests.fakes.ports import free_address
from tests.fakes.processes import EDGEWISE, Running
from tests.system.test_identity import RUN, House, has_joined, line_of, wait_for

pytest.importorskip("psycopg", reason="NOT RUN: psycopg is not installed (the extra `postgres`)")
pytestmark = [
    pytest.mark.system,
    pytest.mark.faults,
    pytest.mark.skipif(bool(postgres.available()), reason=f"NOT RUN: {postgres.available()}"),
]

ENOUGH_S = 7.0
REVOKED_S = 5.0


class Replica(House):
    """One of the gateways, in a folder of its own."""

    def __init__(self, folder: Path, conninfo: str) -> None:
        folder.mkdir()
        super().__init__(folder)
        self.conninfo = conninfo
        self.clients, self.http, self.nodes = (free_address() for _ in range(3))
        self.gateways = ""
        self.gateway: Running | None = None

    def environment(self) -> dict[str, str]:
        shared = {
            "EDGEWISE_LEDGER__STORE": "postgres",
            "EDGEWISE_LEDGER__POSTGRES": self.conninfo,
            "EDGEWISE_NODES__GATEWAYS": self.gateways,
        }
        return super().environment() | (shared if self.gateways else {})

    def open(self) -> Running:
        """Start the gateway (again) and wait until it says how to join."""
        listen = ("--listen", self.clients, "--http-listen", self.http, "--nodes-listen", self.nodes)
        gateway = self.gateway = self.start("gateway", *EDGEWISE, "gateway", *listen, "--tls", "on", "--log", "json")
        wait_for(lambda: bool(line_of(gateway)), gateway)
        return gateway

    def ask(self, *command: str) -> tuple[int, str]:
        done = self.run(*EDGEWISE, "--gateway", self.clients, *command)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Replica, Replica]]:
    with postgres.server() as conninfo:
        both = Replica(tmp_path / "a", conninfo), Replica(tmp_path / "b", conninfo)
        for one in both:
            one.gateways = ",".join(each.nodes for each in both)
        try:
            yield both
        finally:
            for one in both:
                with contextlib.suppress(OSError):
                    one.close()


def lend_authority(giver: Replica, taker: Replica) -> None:
    """What the operator copies; nothing else of one gateway is needed by the other."""
    folder = taker.folder / "gateway" / "identity"
    folder.mkdir(parents=True, mode=0o700)
    for name in ("ca.key", "ca.pem"):
        shutil.copy2(giver.folder / "gateway" / "identity" / name, folder / name)


def answered(replica: Replica, query: Path) -> bool:
    return replica.ask("infer", str(query))[0] == 0


def within_s(seconds: float, what: str, holds: object) -> float:
    """Seconds until something holds."""
    began_s = time.monotonic()
    assert callable(holds)
    while not holds():
        assert time.monotonic() < began_s + seconds, what
        time.sleep(0.05)
    return time.monotonic() - began_s


def test_a_node_that_joined_one_serves_both_and_is_put_out_by_either(
    pair: tuple[Replica, Replica], tmp_path: Path
) -> None:
    first, second = pair
    query = tmp_path / "query.npy"
    np.save(query, np.zeros((8, 8), np.float32))
    first_gateway = first.open()
    lend_authority(first, second)
    second_gateway = second.open()
    node = first.start("node", *EDGEWISE, *line_of(first_gateway), *RUN)
    for gateway in (first_gateway, second_gateway):
        wait_for(lambda gateway=gateway: has_joined(gateway), gateway, node)  # type: ignore[misc]
    for replica in pair:
        assert answered(replica, query), replica.ask("infer", str(query))

    # One is lost: the other goes on; the node is back when it is.
    first_gateway.end_group()
    within_s(ENOUGH_S, "the other replica does not answer", lambda: answered(second, query))
    again = first.open()
    within_s(ENOUGH_S, "the node is not back at the restarted replica", lambda: has_joined(again))

    # Put out at one, it is out at both, on streams that are open.
    assert second.ask("node", "revoke", "box")[0] == 0
    within_s(
        REVOKED_S, "the first replica keeps a node that the second put out", lambda: bool(again.events("node.put_out"))
    )
    assert node.popen.wait(REVOKED_S) == 5
    assert "IDENTITY_REVOKED" in node.tail()


def test_a_gateway_with_an_authority_of_its_own_does_not_start_beside_others(pair: tuple[Replica, Replica]) -> None:
    first, second = pair
    first.open()
    listen = ("--listen", second.clients, "--http-listen", second.http, "--nodes-listen", second.nodes)
    refused = second.run(*EDGEWISE, "gateway", *listen, "--tls", "on")
    assert refused.returncode == 3
    assert "ca.key" in refused.stdout + refused.stderr
