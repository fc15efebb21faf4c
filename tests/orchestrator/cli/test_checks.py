"""The doctor: what it finds in node reports, ports and clocks, and which exit code it ends with."""

from __future__ import annotations

import json
import socket

import pytest

from orchestrator.cli.checks import Check, Status, exit_code, gateway, local, node, read_node_report
from orchestrator.errors import ExitCode
from tests.orchestrator.fake_gateway import FakeGateway


def report(*checks: dict[str, object]) -> str:
    return json.dumps(checks)


def test_node_report_is_merged_with_its_exit_code() -> None:
    found = read_node_report(
        report(
            {"check": "worker", "ok": True, "detail": "onnxruntime 1.32"},
            {"check": "energy", "ok": False, "detail": "no counter"},
        ),
        9,
    )
    assert [check.status for check in found] == [Status.OK, Status.FAIL]
    assert [check.name for check in found] == ["node: worker", "node: energy"]
    assert exit_code(found) == ExitCode.ENERGY_SOURCE_MISSING


def test_the_real_node_doctor_is_understood() -> None:
    found = node()
    assert {"node: python", "node: worker", "node: energy"} <= {check.name for check in found}
    assert all(check.detail for check in found)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "[1]", '[{"check": 1}]', "Traceback"])
@pytest.mark.parametrize("returncode", [0, 1, -9])
def test_node_report_that_cannot_be_read_fails(text: str, returncode: int) -> None:
    assert exit_code(read_node_report(text, returncode)) == ExitCode.FAILED


def test_failed_exit_code_without_a_failed_check_still_fails() -> None:
    assert exit_code(read_node_report(report({"check": "a", "ok": True, "detail": ""}), 1)) == ExitCode.FAILED


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
