"""A real agent that is put to sleep by a command that stands for a machine which sleeps: it ends when a magic packet
comes. Never run on hardware that suspends."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from orchestrator.client import Budget
from tests.fakes.ports import free_port
from tests.fakes.processes import Fleet, NodePlan
from tests.fakes.sleeper import MAC

pytestmark = pytest.mark.system

# Holds until the packet for this address has come, as a machine that sleeps does.
MACHINE = """
import socket, sys
card = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
card.bind(("127.0.0.1", int(sys.argv[1])))
wanted = b"\\xff" * 6 + bytes.fromhex(sys.argv[2]) * 16
while card.recv(2048) != wanted:
    pass
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("sleep")
    machine, port = folder / "machine.py", free_port()
    machine.write_text(MACHINE)
    command = f"{sys.executable} {machine} {port} {MAC.replace(':', '')}"
    sleeps = ("--allow-suspend", "--suspend-command", command, "--suspend-settle-s", "0", "--wake-s", "5")
    card = ("--wake-mac", MAC, "--wake-address", f"127.0.0.1:{port}", "--idle-w", "20", "--wake-j", "30")
    plan = NodePlan("attic", "laptop-cpu", ("digits-linear",), ("--profiling-s", "0.1", *sleeps, *card))
    with Fleet(folder) as fleet:
        yield fleet.start(plan)


def test_an_agent_sleeps_by_command_and_a_request_wakes_it(fleet: Fleet) -> None:
    slept = fleet.cli("node", "sleep", "attic")
    assert (slept.returncode, slept.stdout) == (0, "attic: draining\n"), slept.stderr
    fleet.wait_until(lambda: fleet.state_of("attic") == "asleep", "asleep")
    agent = fleet.agents["attic"]
    fleet.wait_until(lambda: bool(agent.events("suspending")), "suspended")
    assert agent.alive
    with fleet.client(timeout_s=30.0) as client:
        answer = client.infer(np.zeros((1, 8, 8), dtype=np.float32), budget=Budget(max_latency_ms=25_000.0))
    assert answer.label in {str(label) for label in range(10)}
    assert fleet.state_of("attic") == "healthy"
    assert agent.events("awake")


def test_by_hand_too(fleet: Fleet) -> None:
    fleet.cli("node", "sleep", "attic")
    fleet.wait_until(lambda: fleet.state_of("attic") == "asleep", "asleep")
    woken = fleet.cli("node", "wake", "attic", "-o", "json")
    assert json.loads(woken.stdout)["state"] in ("waking", "healthy")
    fleet.wait_until(lambda: fleet.state_of("attic") == "healthy", "awake")


def test_an_agent_that_sleeps_still_leaves_when_it_is_told_to(fleet: Fleet) -> None:
    fleet.cli("node", "sleep", "attic")
    fleet.wait_until(lambda: fleet.state_of("attic") == "asleep", "asleep")
    assert fleet.agents["attic"].terminate() == 0
