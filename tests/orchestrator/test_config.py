"""Configuration: precedence, origins, and that every mistake is named with its path and what is allowed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.config import GatewayConfig, is_loopback, split_address
from orchestrator.config_errors import ConfigError
from orchestrator.config_layers import load, read_file, validate_file
from orchestrator.places import default_state_dir, local_authority

EXAMPLES = Path(__file__).parents[2] / "deploy" / "config"


def write(folder: Path, text: str) -> Path:
    path = folder / "gateway.yaml"
    path.write_text(text)
    return path


def error_of(folder: Path, text: str, **environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(flags={}, environment=environment, file=write(folder, text))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = write(tmp_path, "log: {level: error, format: json}\nnodes: {heartbeat_s: 1.0, lease_s: 4.0}")
    environment = {"EDGEWISE_LOG__LEVEL": "warning", "EDGEWISE_NODES__LEASE_S": "3"}
    loaded = load(flags={("log", "level"): "debug"}, environment=environment, file=file)
    assert loaded.config.log.level == "debug"
    assert loaded.config.nodes.lease_s == 3.0
    assert loaded.config.nodes.heartbeat_s == 1.0
    assert loaded.config.fusion.max_experts == 4
    assert loaded.origins["log.level"] == "flag --log-level"
    assert loaded.origins["nodes.lease_s"] == "env EDGEWISE_NODES__LEASE_S"
    assert loaded.origins["nodes.heartbeat_s"] == loaded.origins["log.format"] == f"file {file}"
    assert loaded.origins["fusion.max_experts"] == "default"


def test_every_value_has_an_origin() -> None:
    loaded = load(flags={}, environment={"HOME": "/nowhere"})
    assert {"listen", "budgets.default.profile", "promise.margins", "state_dir"} <= set(loaded.origins)
    assert set(loaded.origins.values()) == {"default"}


def test_user_file_is_found_where_xdg_says(tmp_path: Path) -> None:
    (tmp_path / "edgewise").mkdir()
    (tmp_path / "edgewise" / "config.yaml").write_text("explain: {keep: 7}")
    assert load(flags={}, environment={"XDG_CONFIG_HOME": str(tmp_path)}).config.explain.keep == 7


def test_environment_reaches_tasks_and_kinds_of_values() -> None:
    environment = {
        "EDGEWISE_BUDGETS__TASKS__DIGITS__MAX_ENERGY_J": "5e-6",
        "EDGEWISE_PLAN__MAX_ACTIVE": "none",
        "EDGEWISE_PROMISE__MARGINS": "false",
        "EDGEWISE_STATE_DIR": "/srv/edgewise",
        "EDGEWISE_LISTEN": "",
        "HOME": "/nowhere",
    }
    config = load(flags={}, environment=environment).config
    assert config.budgets.for_task("digits").max_energy_j == 5e-6
    assert config.budgets.for_task("digits").max_latency_ms == 1000.0
    assert config.budgets.for_task("other").max_energy_j is None
    assert (config.plan.max_active, config.promise.margins) == (None, False)
    assert config.state_dir == Path("/srv/edgewise")


def test_variables_of_other_parts_are_left_alone() -> None:
    environment = {"EDGEWISE_EVAL_DATA": "/d", "EDGEWISE_NODE_NAME": "n", "EDGEWISE_GATEWAY": "h:1", "HOME": "/x"}
    assert set(load(flags={}, environment=environment).origins.values()) == {"default"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("EDGEWISE_LISTN", "EDGEWISE_LISTEN"),
        ("EDGEWISE_NODE__LEASE_S", "EDGEWISE_NODES"),
        ("EDGEWISE_NODES__LEASE", "nodes.lease"),
    ],
)
def test_misspelt_variables_are_refused(tmp_path: Path, name: str, expected: str) -> None:
    message = error_of(tmp_path, "", **{name: "3"})
    assert name in message
    assert expected in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nodes: {heartbeat_s: 100}", ("nodes.heartbeat_s", "0.05 to 60", "gateway.yaml")),
        ("nodes: {heartbeat_s: '1'}", ("nodes.heartbeat_s", "0.05 to 60")),
        ("nodes: {heartbeat_s: true}", ("nodes.heartbeat_s",)),
        ("nodes: {heartbeat_s: .nan}", ("nodes.heartbeat_s", "finite")),
        ("nodes: {heartbeat: 1}", ("nodes.heartbeat", "known are heartbeat_s, lease_s")),
        ("nodes: {lease_s: 1.0}", ("nodes", "longer than heartbeat_s")),
        ("budgets: {default: {profile: x}}", ("budgets.default.profile", "eco, balanced, best")),
        ("budgets: {default: {max_energy_j: -1}}", ("budgets.default.max_energy_j", "0 to 1e+09")),
        ("budgets: {tasks: {digits: {max_latency_ms: 0}}}", ("budgets.tasks.digits.max_latency_ms", "3.6e+06")),
        ("budgets: {tasks: {'../x': {}}}", ("budgets.tasks.../x",)),
        ("listen: here", ("listen", "HOST:PORT")),
        ("listen: 127.0.0.1:70000", ("listen", "65535")),
        ("nodes: {lease_s: 5, lease_s: 7}", ("lease_s is written twice", "line 1")),
        ("listen: 1\nlisten: 2", ("listen is written twice", "line 2")),
        ("a: [", ("not valid YAML",)),
        ("? [1, 2]\n: 3", ("not valid YAML",)),
        ("- 1", ("must hold keys and values",)),
        ("x: !!python/object/apply:os.getcwd []", ("not valid YAML",)),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    message = error_of(tmp_path, text)
    for word in words:
        assert word in message


@pytest.mark.parametrize("key", ["listen", "http_listen"])
def test_remote_addresses_need_the_flag_and_the_reason_is_told(tmp_path: Path, key: str) -> None:
    assert "without TLS" in error_of(tmp_path, f"{key}: 0.0.0.0:9000\ntls: {{mode: off}}")
    allowed = load(flags={}, environment={}, file=write(tmp_path, f"{key}: 0.0.0.0:9\nallow_insecure_remote: true"))
    assert getattr(allowed.config, key) == "0.0.0.0:9"
    assert not allowed.config.tls_on


@pytest.mark.parametrize("key", ["listen", "http_listen", "nodes_listen"])
def test_beyond_loopback_tls_is_on_by_itself(tmp_path: Path, key: str) -> None:
    config = load(flags={}, environment={}, file=write(tmp_path, f"{key}: 0.0.0.0:9000")).config
    assert (config.tls_on, config.on_loopback) == (True, False)
    assert (GatewayConfig().tls_on, GatewayConfig().nodes_address) == (False, "127.0.0.1:8422")


@pytest.mark.parametrize(("word", "mode"), [("on", "on"), ("off", "off"), ("auto", "auto"), ('"on"', "on")])
def test_tls_modes_as_yaml_writes_them(tmp_path: Path, word: str, mode: str) -> None:
    config = load(flags={}, environment={}, file=write(tmp_path, f"tls: {{mode: {word}, san: [gw.example, 10.0.0.1]}}"))
    assert (config.config.tls.mode, config.config.tls.san) == (mode, ("gw.example", "10.0.0.1"))


def test_further_names_from_the_environment_and_none_that_is_no_name(tmp_path: Path) -> None:
    config = load(flags={}, environment={"EDGEWISE_TLS__SAN": "a.example, 10.0.0.1", "HOME": "/x"}).config
    assert config.tls.san == ("a.example", "10.0.0.1")
    assert "tls.san" in error_of(tmp_path, 'tls: {san: ["not a name"]}')


def test_addresses() -> None:
    assert split_address("[::1]:8421") == ("::1", 8421)
    assert [is_loopback(f"{host}:1") for host in ("127.3.2.1", "localhost", "[::1]")] == [True] * 3
    assert [is_loopback(f"{host}:1") for host in ("10.0.0.1", "example.org", "[::]", "0.0.0.0")] == [False] * 4
    for bad in ("::1:8421", ":80", "host", "host:", "host:-1", "host:٣"):
        with pytest.raises(ValueError, match=r"HOST:PORT|65535"):
            split_address(bad)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*no such file"):
        read_file(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="larger than"):
        read_file(write(tmp_path, "#" * (1 << 20) + "\n#"))


def test_state_dir_follows_xdg() -> None:
    assert default_state_dir({"XDG_DATA_HOME": "/d"}) == Path("/d/edgewise")
    assert default_state_dir({"HOME": "/h"}) == Path("/h/.local/share/edgewise")


def test_the_authority_of_a_gateway_on_this_machine_is_found(tmp_path: Path) -> None:
    environment = {"EDGEWISE_STATE_DIR": str(tmp_path)}
    assert local_authority(environment) is None
    (tmp_path / "identity").mkdir()
    (tmp_path / "identity" / "ca.pem").write_text("")
    assert local_authority(environment) == tmp_path / "identity" / "ca.pem"


def test_example_holds_every_key_at_its_default() -> None:
    example = validate_file(EXAMPLES / "gateway.example.yaml")
    assert example == GatewayConfig()
    shown = set(read_file(EXAMPLES / "gateway.example.yaml"))
    assert shown == set(GatewayConfig.model_fields) - {"state_dir"}


def test_committed_schema_is_current() -> None:
    assert json.loads((EXAMPLES / "gateway.schema.json").read_text()) == GatewayConfig.model_json_schema()
