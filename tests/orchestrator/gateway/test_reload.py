"""A changed configuration is put in force at run time, all of it or nothing."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgewise.v1 import admin_pb2
from orchestrator.config import GatewayConfig
from orchestrator.config_errors import field_at
from orchestrator.config_layers import load
from orchestrator.gateway.reload import LIVE, Reloader, differences, live_part
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import answers
from tests.fakes.live import Live, live_gateway
from tests.fakes.processes import Fleet, http_get
from tests.orchestrator.gateway.calls import digit, infer, refusal

DEAR = FakeArm("dear", energy_j=0.5)


class Written:
    """A file, and the reading of it that the gateway does."""

    def __init__(self, folder: Path, live: Live) -> None:
        self.file = folder / "gateway.yaml"
        self._fixed: dict[tuple[str, ...], Any] = {
            ("listen",): live.gateway.config.listen,
            ("http_listen",): live.gateway.config.http_listen,
            ("state_dir",): live.gateway.config.state_dir,
            ("nodes", "heartbeat_s"): live.gateway.config.nodes.heartbeat_s,
            ("nodes", "lease_s"): live.gateway.config.nodes.lease_s,
            ("ledger", "store"): "memory",
        }
        live.gateway.reloader._read = self.read

    def read(self) -> GatewayConfig:
        return load(flags=self._fixed, environment={}, file=self.file).config


async def reload(live: Live) -> Mapping[str, str]:
    """What has changed, by key."""
    admin: Any = live.admin
    reply = await admin.ReloadConfig(admin_pb2.ReloadConfigRequest(), timeout=5.0)
    return {entry.key: entry.after for entry in reply.changed}


def metric(live: Live, name: str) -> str:
    lines = live.gateway.service.metrics.render().decode().splitlines()
    return next((line.rpartition(" ")[2] for line in lines if line.startswith(name)), "")


def test_every_part_that_can_change_is_a_key() -> None:
    assert [part for part in LIVE if field_at(tuple(part.split("."))) is None] == []


@pytest.mark.parametrize(
    "key", ["listen", "tls.mode", "auth.keys", "state_dir", "ledger.store", "nodes.lease_s", "promise.margins"]
)
def test_what_others_rely_on_needs_a_restart(key: str) -> None:
    assert live_part(key) is None


async def test_a_budget_holds_for_the_next_request(tmp_path: Path) -> None:
    async with live_gateway(tmp_path) as live, live.node(arms=[DEAR], behaviour=answers(7)):
        written = Written(tmp_path, live)
        await infer(live, digit())
        written.file.write_text("budgets: {tasks: {digits: {max_energy_j: 0.001}}}\n")
        assert await reload(live) == {
            "budgets.tasks": "",
            "budgets.tasks.digits.max_energy_j": "0.001",
            "budgets.tasks.digits.max_latency_ms": "null",
            "budgets.tasks.digits.on_infeasible": "null",
            "budgets.tasks.digits.profile": "null",
        }
        await refusal(infer(live, digit()), "BUDGET_INFEASIBLE")
        assert await reload(live) == {}
        written.file.write_text("")
        await reload(live)
        await infer(live, digit())
        assert metric(live, 'edgewise_config_reloads_total{outcome="applied"}') == "2.0"
        assert metric(live, 'edgewise_config_reloads_total{outcome="unchanged"}') == "1.0"


async def test_a_bad_file_changes_nothing_and_says_why(tmp_path: Path) -> None:
    async with live_gateway(tmp_path) as live:
        written = Written(tmp_path, live)
        before = live.gateway.reloader.config
        written.file.write_text("explain: {keep: 5}\nadmission: {max_running: 0}\n")
        found = await refusal_of(live, "CONFIG_INVALID")
        assert "admission.max_running" in found
        assert "1 to 65536" in found
        assert str(written.file) in found
        assert live.gateway.reloader.config is before
        assert metric(live, 'edgewise_config_reloads_total{outcome="CONFIG_INVALID"}') == "1.0"
        assert metric(live, "edgewise_config_good") == "0.0"
        written.file.write_text("explain: {keep: 5}\n")
        assert await reload(live) == {"explain.keep": "5"}
        assert metric(live, "edgewise_config_good") == "1.0"


async def refusal_of(live: Live, reason: str) -> str:
    """All that a refused reload tells."""
    import grpc

    from tests.orchestrator.gateway.calls import refused

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await reload(live)
    found = refused(caught.value)
    assert found.reason == reason
    return f"{found.message} {dict(found.metadata)}"


async def test_a_key_that_needs_a_restart_holds_all_others_back(tmp_path: Path) -> None:
    async with live_gateway(tmp_path) as live, live.node(arms=[DEAR], behaviour=answers(7)):
        written = Written(tmp_path, live)
        written.file.write_text("budgets: {default: {max_energy_j: 0.001}}\nauth: {keys: required}\n")
        found = await refusal_of(live, "RESTART_NEEDED")
        assert "auth.keys" in found
        assert "budgets" not in found
        # Nothing half applied: the budget that could have changed has not.
        await infer(live, digit())
        # Control: without the key that needs a restart it does.
        written.file.write_text("budgets: {default: {max_energy_j: 0.001}}\n")
        await reload(live)
        await refusal(infer(live, digit()), "BUDGET_INFEASIBLE")


async def test_parts_that_cannot_change_are_never_touched_by_a_list_gone_wrong(tmp_path: Path) -> None:
    """Each key of the whole configuration is either live or refused; there is no third kind."""
    async with live_gateway(tmp_path) as live:
        config = live.gateway.config
        changed = config.model_copy(update={"promise": config.promise.model_copy(update={"margins": False})})
        reloader = Reloader(config, live.gateway.service, lambda: changed)
        with pytest.raises(Exception, match=r"promise\.margins"):
            await reloader.reload()
        assert [one.key for one in differences(config, changed)] == ["promise.margins"]


async def test_each_live_part_reaches_what_it_configures(tmp_path: Path) -> None:
    async with live_gateway(tmp_path) as live:
        service = live.gateway.service
        written = Written(tmp_path, live)
        written.file.write_text(
            "admission: {max_running: 3, max_queued: 2}\nretries: {enabled: false}\nfusion: {max_experts: 2}\n"
            "plan: {max_active: 1}\nfeedback: {max_mib: 0}\nexplain: {keep: 9}\nledger: {keep_days: 2, orphans: free}\n"
        )
        await reload(live)
        assert (service.admission.max_running, service.admission.max_queued) == (3, 2)
        assert (service._runner.max_attempts, service._text_runner.max_attempts, service._max_experts) == (1, 1, 2)
        assert service.planner._limits.max_active == 1
        assert service.journal._keep == 9
        terms = service.till.ledger.terms
        assert (terms.keep_s, terms.charge_orphans) == (2 * 86_400.0, False)
        assert service.outcomes._folder is None


@pytest.mark.system
def test_a_signal_and_the_command_reload_a_running_gateway(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("log: {level: info}\n")
    with Fleet(tmp_path, {"EDGEWISE_CONFIG": str(file)}) as fleet:
        gateway = fleet.start_gateway()
        fleet.wait_until(lambda: http_get(f"http://{fleet.http_address}/healthz")[0] == 200, "listening")
        file.write_text("explain: {keep: 7}\n")
        gateway.popen.send_signal(signal.SIGHUP)
        fleet.wait_until(lambda: bool(gateway.events("config.reloaded")), "reloaded")
        assert gateway.events("config.reloaded")[0]["changed"] == ["explain.keep"]
        file.write_text("explain: {keep: -1}\n")
        told = fleet.cli("config", "reload")
        assert told.returncode == 3
        assert "explain.keep" in told.stderr
        assert "0 to 1e+06" in told.stderr
        assert "stays in force" in told.stderr
        assert gateway.alive
        file.write_text("explain: {keep: 7}\nlisten: 127.0.0.1:1\nstate_dir: /nowhere\nauth: {keys: required}\n")
        told = fleet.cli("config", "reload")
        assert told.returncode == 3
        # The flags of the command line still win over the file, so only this differs.
        assert "auth.keys" in told.stderr
        assert "listen" not in told.stderr
        file.write_text("explain: {keep: 8}\n")
        told = fleet.cli("config", "reload", "-o", "json")
        assert told.returncode == 0, told.stderr
        assert '"after": "8"' in told.stdout
        assert [event["reason"] for event in gateway.events("config.kept")] == ["CONFIG_INVALID", "RESTART_NEEDED"]
        assert "explain.keep" in gateway.events("config.kept")[0]["why"]
        # Loggers that exist follow a new level: what is below it is not written any more, what is above it is.
        for text in ("log: {level: error}\n", "log: {level: error}\nexplain: {keep: 9}\n"):
            file.write_text(text)
            with fleet.client() as client:
                assert client.reload_config()
        file.write_text("log: {level: loud}\n")
        gateway.popen.send_signal(signal.SIGHUP)
        fleet.wait_until(lambda: len(gateway.events("config.kept")) == 3, "refused")
        assert len(gateway.events("config.reloaded")) == 2
