"""Ports for servers that start later: nobody else is given one in between."""

from __future__ import annotations

import socket
import subprocess
import sys

from tests.fakes.ports import BLOCK, GIVEN, free_port
from tests.fakes.processes import REPOSITORY

TOLD = "from tests.fakes.ports import free_port; print([free_port() for _ in range(20)]); input()"


def test_the_system_gives_none_of_them_to_anybody() -> None:
    least = int(GIVEN.read_text().split()[0])
    assert all(free_port() < least for _ in range(2 * BLOCK))


def test_no_port_is_told_while_somebody_listens_on_it() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as server:
        taken = server.getsockname()[1]
        assert taken not in {free_port() for _ in range(2 * BLOCK)}
    assert taken in {free_port() for _ in range(2 * BLOCK)}


def test_processes_are_told_different_ones() -> None:
    others = [
        subprocess.Popen(
            [sys.executable, "-c", TOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
        )
        for _ in range(3)
    ]
    try:
        told = [{free_port() for _ in range(20)}]
        for other in others:
            assert other.stdout is not None
            told.append(set(map(int, other.stdout.readline().strip("[]\n").split(","))))
    finally:
        for other in others:
            other.communicate("\n")
    assert len(set.union(*told)) == sum(map(len, told)) == 80
