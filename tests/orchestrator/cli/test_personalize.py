"""`edgewise personalize` against a fake gateway."""

from __future__ import annotations

from tests.orchestrator.cli.test_cli import Edgewise, edgewise
from tests.orchestrator.fake_gateway import FakeGateway

__all__ = ["edgewise"]


def test_a_status_is_told_line_by_line(fake: FakeGateway, edgewise: Edgewise) -> None:
    ended = edgewise("--gateway", fake.target, "personalize", "status", "ada")
    assert ended.code == 0
    assert ended.out.splitlines()[:2] == ["home      n1", "state     status"]


def test_a_status_as_json(fake: FakeGateway, edgewise: Edgewise) -> None:
    told = edgewise("--gateway", fake.target, "personalize", "status", "ada", "-o", "json").json
    assert (told["node"], told["tier"], told["version"]) == ("n1", "instant", 2)
