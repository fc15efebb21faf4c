"""The page of the fleet: what it shows, that nothing a node says becomes markup, and who may look."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.client
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import Auth
from orchestrator.gateway.markup import MAX_CELL_CHARS, Cell, Column, safe, table
from orchestrator.ledger.keys import Role
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import answers
from tests.fakes.live import Live, live_gateway, until
from tests.orchestrator.gateway.calls import digit, infer
from tests.orchestrator.gateway.conftest import ARMS
from tests.orchestrator.gateway.test_accounts import limit
from tests.orchestrator.gateway.test_policy import key_for

HOSTILE = "<img src=x onerror=alert(1)>\"'&</td></style><script>alert(2)</script>\x1b[31m\u202e"
# Everything that the page is made of.
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "footer", "h1", "h2", "p", "code", "dl", "div"),
    *("dt", "dd", "table", "thead", "tbody", "tr", "th", "td", "small"),
}


class Outline(HTMLParser):
    """Tags, attributes and text of a page, as a browser would find them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def fetch(live: Live, key: str | None = None, verb: str = "GET") -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection(live.http.removeprefix("http://"), timeout=5)
    connection.request(verb, "/", headers={} if key is None else {"Authorization": key})
    reply = connection.getresponse()
    return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read().decode()


async def look(live: Live, key: str | None = None, verb: str = "GET") -> tuple[int, dict[str, str], str]:
    return await asyncio.to_thread(fetch, live, key, verb)


def as_password(key: str, name: str = "anybody") -> str:
    secret = key.removeprefix("Bearer ")
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


async def test_it_shows_nodes_arms_plans_and_budgets(tmp_path: Path) -> None:
    async with live_gateway(tmp_path) as live, live.node(name="kitchen", arms=ARMS, behaviour=answers(7)):
        await limit(live, "tenant:anne", day_j=10.0)
        await infer(live, digit(expert="large"))
        await until(lambda: (found := live.gateway.planner.standing("digits")) and found.plan.active)
        status, headers, page = await look(live)
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        text = " ".join(Outline(page).text)
        for shown in ("kitchen", "healthy", "large:v1@kitchen", "tenant:anne", "10 J", "optimal", "modelled"):
            assert shown in text, shown
        assert "balanced" in text
    async with live_gateway(tmp_path / "empty") as live:
        assert "No node has connected yet." in (await look(live))[2]


@pytest.mark.parametrize("field", ["device", "energy_method", "software_version"])
async def test_what_a_node_says_never_becomes_markup(tmp_path: Path, field: str) -> None:
    said: dict[str, Any] = {field: HOSTILE.replace("\x1b", "")}
    async with live_gateway(tmp_path) as live, live.node(arms=[FakeArm("small")], behaviour=answers(7), **said):
        page = (await look(live))[2]
        outline = Outline(page)
        assert outline.tags == TAGS
        assert outline.attributes <= {"lang", "charset", "name", "content", "http-equiv", "class", "scope"}
        assert any("<img src=x onerror=alert(1)>" in text for text in outline.text)


def test_the_control_of_the_test_above() -> None:
    """Unescaped, the same text would be found as markup."""
    assert {"img", "script"} <= Outline(f"<td>{HOSTILE}</td>").tags


def test_control_characters_and_length_are_taken_from_text() -> None:
    assert safe(HOSTILE).isprintable()
    assert len(safe("a" * 10_000)) == MAX_CELL_CHARS
    shown = table([Column("<b>")], [[Cell("<i>", "<u>", "bad")]], none="")
    assert Outline(shown).tags == {"div", "table", "thead", "tbody", "tr", "th", "td", "small"}


async def test_nothing_comes_from_elsewhere_and_nothing_runs(live: Live) -> None:
    _, headers, page = await look(live)
    style = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert len(style) == 1
    digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
    policy = headers["content-security-policy"]
    assert f"style-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "script" not in Outline(page).tags
    assert "style" not in Outline(page).attributes
    assert not re.search(r"url\(|@import|https?://|//", page)
    assert "prefers-color-scheme: dark" in style[0]
    assert headers["cache-control"] == "no-store"


async def test_it_is_only_looked_at(live: Live) -> None:
    for verb in ("POST", "PUT", "DELETE"):
        assert (await look(live, verb=verb))[0] == 405


async def test_beyond_loopback_a_browser_asks_for_an_operators_key(tmp_path: Path) -> None:
    async with live_gateway(tmp_path, auth=Auth(keys="required")) as live:
        status, headers, page = await look(live)
        assert (status, "Nodes" in page) == (401, False)
        assert headers["www-authenticate"].startswith("Basic realm=")
        admin, client = await key_for(live, Role.ADMIN), await key_for(live, Role.CLIENT)
        assert [(await look(live, key))[0] for key in (admin, as_password(admin), as_password(admin, ""))] == [200] * 3
        assert [(await look(live, key))[0] for key in (client, as_password(client))] == [403, 403]
        bad = ["Basic", "Basic !!", "Basic " + base64.b64encode(b"no colon").decode(), as_password("ewk_00_AAAA")]
        assert [(await look(live, key))[0] for key in bad] == [401] * 4


async def test_a_password_opens_the_page_and_nothing_else(tmp_path: Path) -> None:
    """Browsers send it on by themselves, also where another site's page asks them to."""
    async with live_gateway(tmp_path, auth=Auth(keys="required")) as live:
        shown = as_password(await key_for(live, Role.ADMIN))

        def status(path: str) -> int:
            connection = http.client.HTTPConnection(live.http.removeprefix("http://"), timeout=5)
            connection.request("GET", path, headers={"Authorization": shown})
            return connection.getresponse().status

        paths = ("/", "/metrics", "/v1/models", "//", "/?x", "/index.html")
        found = [await asyncio.to_thread(status, path) for path in paths]
        assert found == [200, 401, 401, 401, 200, 401]
