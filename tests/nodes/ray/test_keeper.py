"""The supervisor of an agent: starts, starts again, drains, takes tokens, and never leaves its agent behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from nodes.errors import ExitCode
from nodes.ray import keeper
from nodes.ray.keeper import Keeper, agent_command, delay_s
from nodes.ray.spec import AgentSpec, order_for

STAYS = "import time\nprint('hello', file=sys.stderr, flush=True)\ntime.sleep(60)"
FAILS = "print('bad luck', file=sys.stderr); sys.exit(1)"
REPLACED = "print('refused (IDENTITY_REPLACED)', file=sys.stderr); sys.exit(5)"
# Joins where it is told to, and lives on where it has joined.
JOINS = """
import os, pathlib, time
home = pathlib.Path(os.environ['XDG_DATA_HOME'], 'edgewise', 'node', 'orin-1')
if sys.argv[1] == 'join':
    assert os.environ['EDGEWISE_NODE_TOKEN'] == 'ti' + 'cket'
    home.mkdir(parents=True)
    (home / 'node.pem').write_text('')
time.sleep(60)
"""


def until(holds: Callable[[], Any], timeout_s: float = 10.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.02)


@contextmanager
def kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, *, gateway: str | None = "g:1"
) -> Iterator[Keeper]:
    """A keeper whose agent is a few lines of Python."""
    monkeypatch.setattr(keeper, "TETHER", (sys.executable, "-c", f"import sys\n{code}"))
    monkeypatch.setattr(keeper, "CAP_S", 0.2)
    monkeypatch.setattr(keeper, "BASE_S", 0.02)
    order = order_for(AgentSpec(name="orin-1"), gateway, "1")
    one = Keeper(asdict(order), {**os.environ, "XDG_DATA_HOME": str(tmp_path)})
    try:
        yield one
    finally:
        one.close()


def test_an_agent_that_ends_is_started_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with kept(monkeypatch, tmp_path, STAYS) as one:
        until(lambda: one.report()["said"] == "hello")
        first = one.report()["agent_pid"]
        os.kill(first, signal.SIGKILL)
        until(lambda: one.report()["agent_pid"] not in (None, first))
        report = one.report()
        assert (report["state"], report["starts"], report["last_exit"]) == ("running", 2, -signal.SIGKILL)


def test_one_that_keeps_failing_is_tried_on_and_on_and_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with kept(monkeypatch, tmp_path, FAILS) as one:
        until(lambda: one.report()["starts"] >= 4)
        until(lambda: one.report()["said"] == "bad luck")


def test_waits_double_to_a_limit_and_are_longest_where_it_is_hopeless() -> None:
    rng = random.Random(0)
    waits = [delay_s(1, failures, rng) for failures in range(12)]
    assert 0.125 <= waits[0] <= 0.25
    assert all(15.0 <= wait <= 30.0 for wait in waits[7:])
    assert all(15.0 <= delay_s(code, 1, rng) <= 30.0 for code in (ExitCode.AUTH, ExitCode.CONFIG, ExitCode.USAGE))


def test_draining_lets_it_finish_and_starts_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with kept(monkeypatch, tmp_path, STAYS) as one:
        until(lambda: one.report()["said"] == "hello")
        assert one.drain(5.0)
        until(lambda: one.report()["state"] == "drained")
        assert (one.report()["agent_pid"], one.report()["starts"]) == (None, 1)


def test_one_that_does_not_finish_in_time_is_reported_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stubborn = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{STAYS}"
    with kept(monkeypatch, tmp_path, stubborn) as one:
        until(lambda: one.report()["said"] == "hello")
        assert not one.drain(0.2)
        assert one.report()["state"] == "draining"


def test_an_agent_that_an_operator_drained_stays_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with kept(monkeypatch, tmp_path, "sys.exit(0)") as one:
        until(lambda: one.report()["state"] == "drained")
        time.sleep(0.3)
        assert one.report()["starts"] == 1


def test_without_identity_it_waits_for_a_token_and_shows_it_to_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with kept(monkeypatch, tmp_path, JOINS, gateway=None) as one:
        until(lambda: one.report()["state"] == "needs token")
        assert one.report()["starts"] == 0
        one.admit("https://gw:8420", "ticket")
        home = tmp_path / "edgewise" / "node" / "orin-1"
        until((home / "node.pem").exists)
        pid = one.report()["agent_pid"]
        assert not any("ticket" in part for part in psutil.Process(pid).cmdline())
        # The token is used up; the identity that it earned is not.
        os.kill(pid, signal.SIGKILL)
        until(lambda: one.report()["starts"] == 2 and one.report()["agent_pid"])
        assert "join" not in psutil.Process(one.report()["agent_pid"]).cmdline()
        assert "ticket" not in str(one.report())


def test_an_identity_that_another_joining_replaced_needs_a_token_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "edgewise" / "node" / "orin-1"
    home.mkdir(parents=True)
    (home / "node.pem").write_text("")
    with kept(monkeypatch, tmp_path, REPLACED, gateway=None) as one:
        until(lambda: one.report()["state"] == "needs token")
    with kept(monkeypatch, tmp_path, REPLACED.replace("REPLACED", "REVOKED"), gateway=None) as one:
        until(lambda: one.report()["starts"] == 2)
        assert one.report()["state"] != "needs token"


def test_commands_join_run_by_identity_or_dial_in_plaintext() -> None:
    agent = AgentSpec(name="orin-1", profile="laptop-cpu")
    plain, secure = order_for(agent, "g:1", "1"), order_for(agent, None, "1")
    tail = ["--name", "orin-1", "--profile", "laptop-cpu"]
    size = len(keeper.TETHER)
    assert agent_command(plain, None)[size:] == ["run", "--gateway", "g:1", *tail]
    assert agent_command(secure, "https://gw:8420")[size:] == ["join", "https://gw:8420", *tail]
    assert agent_command(secure, None)[size:] == ["run", *tail]


KEEPER = """
import sys, time
from nodes.ray import keeper
from nodes.ray.spec import AgentSpec, order_for
agent = "import time, sys\\nfrom nodes.ray.tether import tie\\n{tie}time.sleep(60)"
keeper.TETHER = (sys.executable, "-c", agent)
one = keeper.Keeper(order_for(AgentSpec(name="orin-1"), "g:1", "1").__dict__)
while (pid := one.report()["agent_pid"]) is None:
    time.sleep(0.02)
time.sleep(1.0)
print(pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("tied", [True, False])
def test_the_agent_ends_with_its_keeper_and_without_the_tether_would_not(tied: bool) -> None:
    code = KEEPER.replace("{tie}", "tie(sys.stdin.fileno())\\n" if tied else "")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        agent = psutil.Process(int(running.stdout.readline()))
        running.kill()
    gone, alive = psutil.wait_procs([agent], timeout=3.0 if tied else 0.5)
    for process in alive:
        process.kill()
    assert (len(gone), len(alive)) == ((1, 0) if tied else (0, 1))


def test_an_actor_imports_little_as_an_agent_that_comes_back_waits_for_it() -> None:
    code = "import sys, nodes.ray.keeper; print({'numpy', 'pydantic', 'structlog', 'grpc'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
