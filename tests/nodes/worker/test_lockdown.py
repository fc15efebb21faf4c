"""A locked process can do none of this; one that is not locked can do all of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nodes.worker.lockdown import ARCHITECTURES, Protections, filter_program, probe

needs_kernel = pytest.mark.skipif(
    not (probe().seccomp and probe().landlock), reason="not run: this kernel has no seccomp or no Landlock"
)
TRIES = """
import json, os, socket, sys, threading
sys.path.insert(0, {root!r})
from nodes.worker import lockdown
from nodes.worker.lockdown import Protections, Rules, lock
only = {only!r}
if only == "seccomp":
    lockdown.probe = lambda: Protections(0, True)
elif only == "landlock":
    lockdown.probe = lambda: Protections(lockdown._call(444, None, 0, 1), False)
if only != "nothing":
    lock(Rules(readable={readable!r}, memory_bytes={memory_bytes}))
listener = None
def connect():
    with socket.create_connection(("127.0.0.1", {port}), timeout=2):
        pass
def fork():
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
def thread():
    one = threading.Thread(target=int)
    one.start()
    one.join()
acts = {{
    "read": lambda: open({canary!r}).read(),
    "list": lambda: os.listdir("/"),
    "write": lambda: open({canary!r} + ".new", "w").write("x"),
    "delete": lambda: os.unlink({canary!r} + ".victim"),
    "connect": connect,
    "fork": fork,
    "signal": lambda: os.kill(os.getppid(), 0),
    "allocate": lambda: bytearray(256 << 20),
    "thread": thread,
    "compute": lambda: sum(range(1000)),
}}
done = []
for name, act in acts.items():
    try:
        act()
        done.append(name)
    except (OSError, MemoryError, RuntimeError):
        pass
print(json.dumps(done))
os.execv("/bin/echo", ["/bin/echo", "other program"])
"""
ROOT = str(Path(__file__).parents[3])
ALWAYS = {"compute", "thread"}
FILES = {"read", "list", "write", "delete"}


def done(
    tmp_path: Path, only: str, *, port: int = 9, readable: tuple[str, ...] = (), memory_bytes: int = 0
) -> tuple[set[str], bool]:
    """What a process managed to do, and whether it could become another program."""
    canary = tmp_path / "canary"
    canary.write_text("secret")
    (tmp_path / "canary.victim").write_text("x")
    code = TRIES.format(
        root=ROOT, only=only, canary=str(canary), port=port, readable=readable, memory_bytes=memory_bytes
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    first, _, rest = run.stdout.partition("\n")
    return set(json.loads(first)), "other program" in rest


@pytest.fixture
def port() -> object:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@needs_kernel
def test_a_locked_process_computes_and_nothing_else(tmp_path: Path, port: int) -> None:
    assert done(tmp_path, "", port=port, memory_bytes=128 << 20) == (ALWAYS, False)


def test_control_a_process_that_is_not_locked_does_it_all(tmp_path: Path, port: int) -> None:
    everything = {*ALWAYS, *FILES, "connect", "fork", "signal", "allocate"}
    assert done(tmp_path, "nothing", port=port) == (everything, True)


@needs_kernel
@pytest.mark.parametrize("only", ["seccomp", "landlock"])
def test_each_wall_alone_keeps_it_from_files_and_network(tmp_path: Path, port: int, only: str) -> None:
    managed, _ = done(tmp_path, only, port=port)
    assert not managed & {"read", "list", "write", "connect"}
    assert managed > ALWAYS


@needs_kernel
def test_folders_that_may_be_read_can_be_and_others_cannot(tmp_path: Path, port: int) -> None:
    managed, became = done(tmp_path, "", port=port, readable=(str(tmp_path),))
    assert managed == {*ALWAYS, "read", "allocate"}
    assert not became


def test_memory_is_limited_on_every_kernel(tmp_path: Path) -> None:
    assert "allocate" not in done(tmp_path, "landlock", memory_bytes=128 << 20)[0]
    assert "allocate" in done(tmp_path, "landlock", memory_bytes=1 << 30)[0]


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_filter_is_whole_instructions_and_ends_by_allowing(machine: str) -> None:
    """The tests above run it on this machine; of the other kind only the shape is looked at."""
    architecture = ARCHITECTURES[machine]
    closed = filter_program(architecture, pid=7, opens_files=False)
    opened = filter_program(architecture, pid=7, opens_files=True)
    assert len(closed) % 8 == len(opened) % 8 == 0
    assert len(closed) - len(opened) == 16 * len(set(architecture.opening) - set(architecture.denied))
    assert closed[-8:] == opened[-8:] == bytes.fromhex("060000000000ff7f")


def test_a_kernel_without_seccomp_is_not_enough() -> None:
    assert not Protections(7, False).enough
    assert Protections(0, True).enough
    assert "no Landlock" in Protections(0, True).described()
