"""The doctor: what it finds in node reports, ports and clocks, and which exit code it ends with."""

from __future__ import annotations

import json
import socket

import pytest

from orchestrator.cli.checks import Check, Status, exit_code, gateway, local, read_node_report
from orchestrator.errors import ExitCode
from tests.orchestrator.fake_gateway import FakeGateway


def report(*checks: dict[str, object]) -> str:
    return json.dumps({"checks": checks})


def test_node_report_is_merged_with_its_words() -> None:
    found = read_node_report(
        report(
            {"name": "engine", "status": "ok", "detail": "onnxruntime 1.32"},
            {"name": "energy", "status": "warn", "detail": "no sensor", "cure": "modelled"},
            {"name": "worker", "ok": False, "detail": "does not start"},
        ),
        9,
    )
    assert [check.status for check in found] == [Status.OK, Status.WARN, Status.FAIL]
    assert [check.name for check in found] == ["node: engine", "node: energy", "node: worker"]
    assert exit_code(found) == ExitCode.ENERGY_SOURCE_MISSING


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"checks": [1]}', "Traceback"])
@pytest.mark.parametrize("returncode", [0, 1, -9])
def test_node_report_that_cannot_be_read_fails(text: str, returncode: int) -> None:
    assert exit_code(read_node_report(text, returncode)) == ExitCode.FAILED


def test_failed_exit_code_without_a_failed_check_still_fails() -> None:
    assert exit_code(read_node_report(report({"name": "a", "ok": True}), 1)) == ExitCode.FAILED


def test_warnings_do_not_count() -> None:
    assert exit_code([Check("a", Status.OK, ""), Check("b", Status.WARN, "")]) == 0


def test_gateway_that_answers_and_its_nodes(fake: FakeGateway) -> None:
    found = {check.name: check for check in gateway(fake.target)}
    assert {name: check.status for name, check in found.items()} == dict.fromkeys(
        ("gateway", "versions", "nodes"), Status.OK
    )
    assert "2 of 2" in found["nodes"].detail


def test_free_port_is_fine_and_a_foreign_server_is_not() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        target = f"127.0.0.1:{held.getsockname()[1]}"
        foreign = list(gateway(target, timeout_s=0.3))
    assert [check.status for check in foreign] == [Status.FAIL]
    free = list(gateway(target))
    assert [check.status for check in free] == [Status.OK]
    assert "free" in free[0].detail


def test_this_machine_passes(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    found = {check.name: check.status for check in local()}
    assert found["python"] is found["packages"] is found["configuration"] is found["disk"] is Status.OK


def test_broken_configuration_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWISE_LOG__LEVEL", "loud")
    failed = [check for check in local() if check.status is Status.FAIL]
    assert [check.name for check in failed] == ["configuration"]
    assert exit_code(failed) == ExitCode.CONFIG
