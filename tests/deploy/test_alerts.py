"""Alerts name metrics that exist, and the runbook knows every alert."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.errors import CATALOGUE
from orchestrator.metrics import Metrics

DEPLOY = Path(__file__).parents[2] / "deploy"
RUNBOOK = DEPLOY / "docs" / "runbook.md"
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
# Prometheus' own.
FOREIGN = {"up"}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def series() -> set[str]:
    """Names under which Prometheus sees the gateway's metrics."""
    return {family.name + suffix for family in Metrics().collect() for suffix in SUFFIXES[family.type]}


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(edgewise_\w+|up)\b", expression))


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_is_whole_and_its_metrics_exist(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    assert metrics_in(rule["expr"])
    assert metrics_in(rule["expr"]) - FOREIGN <= series()
    assert rule["expr"].count("(") == rule["expr"].count(")")


def test_prometheus_takes_the_rules() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("not run: there is no promtool here (Debian: prometheus)")
    command = ["promtool", "check", "rules", str(DEPLOY / "prometheus" / "alerts.yaml")]
    assert subprocess.run(command, capture_output=True).returncode == 0


def test_a_metric_that_does_not_exist_would_be_found() -> None:
    assert not metrics_in("rate(edgewise_requests[5m])") <= series()
    assert metrics_in("rate(edgewise_requests_total[5m])") <= series()


def test_every_metric_has_an_alert() -> None:
    watched = {name for rule in rules() for name in metrics_in(rule["expr"])}
    unwatched = [f.name for f in Metrics().collect() if not watched & {f.name + end for end in SUFFIXES[f.type]}]
    assert unwatched == []


def test_outcomes_in_alerts_exist() -> None:
    found = {
        outcome
        for rule in rules()
        for group in re.findall(r'outcome=~?"([^"]+)"', rule["expr"])
        for outcome in group.split("|")
    }
    assert found
    assert found <= set(CATALOGUE) | {"answered", "applied"}


def test_panels_of_the_dashboard_show_metrics_that_exist() -> None:
    dashboard = json.loads((DEPLOY / "prometheus" / "dashboard.grafana.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(expressions) >= len(dashboard["panels"]) == len({panel["id"] for panel in dashboard["panels"]})
    for expression in expressions:
        assert metrics_in(expression)
        assert metrics_in(expression) <= series()
        assert expression.count("(") == expression.count(")")


def test_the_runbook_knows_every_alert_with_three_actions_and_no_other() -> None:
    parts = re.split(r"^### ", RUNBOOK.read_text(), flags=re.MULTILINE)[1:]
    sections = {part.splitlines()[0].strip(): part for part in parts}
    assert set(sections) == {str(rule["alert"]) for rule in rules()}
    short = [name for name, text in sections.items() if len(re.findall(r"^[123]\. ", text, flags=re.MULTILINE)) != 3]
    assert short == []
