"""Ports for servers that start later: nobody else is given one in between."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from tests.fakes import ports
from tests.fakes.ports import BLOCK, LOWEST, free_port, hold, least_given
from tests.fakes.processes import REPOSITORY


def test_the_system_gives_none_of_them_to_anybody() -> None:
    assert all(LOWEST < free_port() < least_given() for _ in range(2 * BLOCK))


def test_no_port_is_told_while_somebody_listens_on_it() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as server:
        taken = server.getsockname()[1]
        assert taken not in {free_port() for _ in range(2 * BLOCK)}
    assert taken in {free_port() for _ in range(2 * BLOCK)}


def test_a_block_is_one_process_s_alone() -> None:
    first = (free_port() - LOWEST) // BLOCK * BLOCK + LOWEST
    assert not hold(first)
    asking = f"from tests.fakes.ports import hold; print(hold({first}))"
    told = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert told.stdout == "False\n"


def test_a_forked_process_has_ports_of_its_own() -> None:
    mine = {free_port() for _ in range(20)}
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, " ".join(str(free_port()) for _ in range(20)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert mine.isdisjoint(map(int, os.read(reader, 1000).split()))
    os.close(reader)
    os.close(writer)


def test_where_the_system_gives_all_ports_one_of_its_own_must_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "least_given", lambda: 1024)
    monkeypatch.setattr("os.getpid", lambda: -1)
    with socket.create_server(("127.0.0.1", free_port())):
        pass
