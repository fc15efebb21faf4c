"""Example configurations are taken by what reads them."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from deploy.supervisor import read_environment
from nodes.cli import cli as node_cli
from nodes.config import parse_config
from nodes.energy.profile import profile_names
from orchestrator.config_layers import validate_file

CONFIG = Path(__file__).parents[2] / "deploy" / "config"


def test_the_home_gateway_is_open_to_its_network_with_tls_and_thrifty() -> None:
    config = validate_file(CONFIG / "gateway.home.yaml")
    assert config.listen.startswith("0.0.0.0")
    assert config.tls.mode == "auto"
    assert not config.allow_insecure_remote
    assert config.budgets.default.profile == "eco"


def test_the_office_asks_for_keys_and_approval() -> None:
    config = validate_file(CONFIG / "gateway.office.yaml")
    assert (config.auth.keys, config.nodes.approval, config.tls.mode) == ("required", "manual", "on")


@pytest.mark.parametrize("name", ["node.jetson.env", "node.rtx.env"])
def test_node_settings_are_options_of_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read_environment(CONFIG / name)
    options = {option.envvar: option for option in node_cli.commands["run"].params}
    assert settings
    assert set(settings) <= set(options)
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)
    given = dict(node_cli.commands["run"].make_context("run", []).params)
    assert given.pop("log") == "json"
    experts = tuple(filter(None, (given.pop("experts") or "").split(",")))
    given["memory_limit_bytes"] = given.pop("memory_limit")
    config = parse_config({**given, "experts": experts, "gateway": "gw:8421"})
    assert config.profile in profile_names()


def test_a_setting_that_is_none_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWISE_NODE_CONCURRENCY", "many")
    with pytest.raises(click.BadParameter):
        node_cli.commands["run"].make_context("run", [])


def test_comments_name_only_verbs_that_exist() -> None:
    from orchestrator.cli.main import VERBS

    named = {verb for file in CONFIG.glob("*.[ey]*") for verb in re.findall(r"`?edgewise (\w+)", file.read_text())}
    assert named
    assert named <= set(VERBS)
