"""The child that speaks to the cluster, played by a few lines of Python: answers, errors, silence, death."""

from __future__ import annotations

import sys
import time

import pytest

from orchestrator.cli.main import run
from orchestrator.errors import ExitCode
from orchestrator.placement import control as module
from orchestrator.placement.control import Control
from orchestrator.placement.errors import PlacementError

CHILD = """
import json, sys, time
print('{"value": null}', flush=True)
for line in sys.stdin:
    order = json.loads(line)
    if order["do"] == "echo":
        print(json.dumps({"value": order}), flush=True)
    elif order["do"] == "fail":
        print('{"error": "a; b; do this", "exit_code": 5}', flush=True)
    elif order["do"] == "die":
        sys.exit(1)
    else:
        time.sleep(60)
"""


def test_answers_errors_silence_and_death_are_told_apart() -> None:
    with Control((sys.executable, "-c", CHILD)) as control:
        assert control.ask("echo", name="a") == {"do": "echo", "name": "a"}
        with pytest.raises(PlacementError) as refused:
            control.ask("fail")
        assert (refused.value.why, refused.value.cure, refused.value.exit_code) == ("a; b", "do this", ExitCode.AUTH)
        with pytest.raises(PlacementError, match="ended"):
            control.ask("die")
    with Control((sys.executable, "-c", CHILD)) as control:
        started_s = time.monotonic()
        with pytest.raises(PlacementError, match="nothing was heard") as lost:
            control.ask("hang", within_s=0.2)
        assert lost.value.exit_code is ExitCode.UNREACHABLE
    assert time.monotonic() - started_s < 5.0


def test_a_bad_spec_is_one_line_and_the_code_for_configuration(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OPEN_S", 30.0)
    assert run(["ray", "status", "--spec", "nowhere.yaml"]) == ExitCode.CONFIG
    lines = capfd.readouterr().err.strip().splitlines()
    assert lines == ["error: Ray refused; nowhere.yaml: no such file or directory; check the path"]
