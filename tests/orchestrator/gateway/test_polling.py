"""How gRPC is told to wait for its sockets, in both processes."""

import os
import subprocess
import sys

import pytest

from nodes import polling as agent
from orchestrator.gateway import polling as gateway


def test_both_processes_say_the_same() -> None:
    assert (agent.VARIABLE, agent.WITHOUT_EVENT_ENGINE) == (gateway.VARIABLE, gateway.WITHOUT_EVENT_ENGINE)


@pytest.mark.parametrize("module", ["orchestrator.gateway.polling", "nodes.polling"])
def test_the_installed_grpc_knows_the_words_and_is_imported_after_them(module: str) -> None:
    code = f"""
import sys
from {module} import poll_directly
assert "grpc" not in sys.modules
poll_directly()
import grpc
grpc.insecure_channel("127.0.0.1:1").close()
"""
    environment = {name: value for name, value in os.environ.items() if name != gateway.VARIABLE}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "nknown experiment" not in done.stderr


def test_what_the_operator_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gateway.VARIABLE, "")
    gateway.poll_directly()
    agent.poll_directly()
    assert os.environ[gateway.VARIABLE] == ""
