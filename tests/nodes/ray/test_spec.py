"""The file of agents: what it means, and how what is wrong in it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nodes.errors import ExitCode
from nodes.ray.errors import SpecRefused
from nodes.ray.spec import order_for, parse_spec, read_spec

AGENT = {"name": "orin-1", "profile": "jetson-agx-orin", "experts": ["digits-linear"], "arguments": ["--concurrency=2"]}


def test_an_agent_becomes_options_of_node_run() -> None:
    (agent,) = parse_spec({"agents": [AGENT]}).agents
    assert agent.options() == ["--profile", "jetson-agx-orin", "--experts", "digits-linear", "--concurrency=2"]


def test_the_revision_changes_with_the_agent_the_gateway_and_the_version() -> None:
    (agent,) = parse_spec({"agents": [AGENT]}).agents
    (other,) = parse_spec({"agents": [{**AGENT, "num_cpus": 2}]}).agents
    orders = [order_for(agent, "g:1", "1"), order_for(agent, "g:1", "1"), order_for(agent, "g:2", "1")]
    orders += [order_for(agent, "g:1", "2"), order_for(other, "g:1", "1")]
    assert orders[0].revision == orders[1].revision
    assert len({order.revision for order in orders}) == 4


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "no mapping"),
        ({"agents": []}, "agents"),
        ({"agents": [AGENT, AGENT]}, "two are called orin-1"),
        ({"agents": [{**AGENT, "name": "Orin 1"}]}, "agents.0.name"),
        ({"agents": [{**AGENT, "num_cpus": -1}]}, "agents.0.num_cpus"),
        ({"agents": [{**AGENT, "resources": {"gpu": 0}}]}, "agents.0.resources.gpu"),
        ({"agents": [{**AGENT, "labels": {"edgewise.device": "a b"}}]}, "agents.0.labels"),
        ({"agents": [{**AGENT, "cpus": 1}]}, "agents.0.cpus"),
        ({"agents": [{**AGENT, "arguments": ["--token=K10"]}]}, "--token"),
        ({"agents": [{**AGENT, "arguments": ["--gateway", "g:1"]}]}, "--gateway"),
        ({"agents": [AGENT], "cluster": {"listen": "0.0.0.0"}}, "name one address"),
        ({"agents": [AGENT], "cluster": {"address": "auto"}}, "HOST:PORT"),
    ],
)
def test_what_is_wrong_is_named(values: Any, said: str) -> None:
    with pytest.raises(SpecRefused, match=r"; see|; begin") as caught:
        parse_spec(values)
    assert said in caught.value.message
    assert caught.value.exit_code is ExitCode.CONFIG


def test_files_that_are_missing_or_no_yaml_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecRefused, match="no such file"):
        read_spec(tmp_path / "fleet.yaml")
    (tmp_path / "fleet.yaml").write_text("agents: [")
    with pytest.raises(SpecRefused, match="no YAML"):
        read_spec(tmp_path / "fleet.yaml")
