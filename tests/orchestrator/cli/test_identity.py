"""`edgewise token` and `edgewise node identities|approve|revoke` against a gateway with TLS."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.cli.main import run
from orchestrator.config import Nodes
from orchestrator.errors import ExitCode
from tests.fakes.live import live_gateway, until
from tests.fakes.secure import Secure, secure_gateway


@pytest.fixture
async def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Secure]:
    monkeypatch.setenv("EDGEWISE_STATE_DIR", str(tmp_path / "elsewhere"))
    for name in ("EDGEWISE_CA", "EDGEWISE_API_KEY", "EDGEWISE_API_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    manual = Nodes(heartbeat_s=0.1, lease_s=5.0, approval="manual")
    async with secure_gateway(tmp_path / "gateway", nodes=manual) as live:
        yield live


async def edgewise(live: Secure, *arguments: str, ca: bool = True) -> int:
    trust = ["--ca", str(live.folder / "identity" / "ca.pem")] if ca else []
    return await asyncio.to_thread(run, ["--gateway", live.address, *trust, *arguments])


async def test_tokens_are_made_listed_and_revoked(live: Secure, capsys: pytest.CaptureFixture[str]) -> None:
    assert await edgewise(live, "token", "create", "--name", "box", "--ttl", "5m") == 0
    line = capsys.readouterr().out.split()
    assert line[:4] == ["edgewise", "node", "join", live.url]
    assert line[4::2] == ["--token", "--name"]
    (token,) = live.identity.registrar.tokens()
    assert (token.node, token.expires_unix_s - token.created_unix_s) == ("box", 300.0)
    assert await edgewise(live, "token", "revoke", token.token_id) == 0
    assert await edgewise(live, "token", "list", "-o", "json") == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["token_id"], shown["state"]) == (token.token_id, "revoked")
    assert line[5].rpartition(".")[2] not in json.dumps(shown)
    assert await edgewise(live, "token", "revoke", "nobody") == ExitCode.NOT_FOUND
    assert await edgewise(live, "token", "create", "--ttl", "2d") == ExitCode.USAGE


async def test_nodes_are_approved_and_revoked(live: Secure, capsys: pytest.CaptureFixture[str]) -> None:
    joining = asyncio.ensure_future(live.join("box"))
    await until(lambda: live.identity.registrar.members())
    assert await edgewise(live, "node", "approve", "box") == 0
    await joining
    assert await edgewise(live, "node", "identities") == 0
    assert "approved" in capsys.readouterr().out
    assert await edgewise(live, "node", "revoke", "box") == 0
    assert await edgewise(live, "node", "identities", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)[0]["state"] == "revoked"
    assert await edgewise(live, "node", "revoke", "ghost") == ExitCode.NOT_FOUND


async def test_without_the_authority_the_line_says_what_to_do(live: Secure, capsys: pytest.CaptureFixture[str]) -> None:
    assert await edgewise(live, "status", ca=False) == ExitCode.AUTH
    told = capsys.readouterr().err
    assert "speaks TLS" in told
    assert "--ca FILE" in told
    assert await edgewise(live, "doctor", "--skip-node", ca=False) == ExitCode.AUTH
    assert "speaks TLS" in " ".join(capsys.readouterr().out.split())


async def test_a_key_file_that_is_not_there_is_named(
    live: Secure, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGEWISE_API_KEY_FILE", "/nowhere/admin.key")
    assert await edgewise(live, "status") == ExitCode.USAGE
    assert "/nowhere/admin.key" in capsys.readouterr().err


async def test_an_authority_found_on_this_machine_is_used_where_it_fits(
    live: Secure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEWISE_STATE_DIR", str(tmp_path / "gateway"))
    assert await edgewise(live, "status", ca=False) == 0
    # A gateway without TLS beside it is asked in plaintext.
    async with live_gateway(tmp_path / "plain") as plain:
        assert await asyncio.to_thread(run, ["--gateway", plain.address, "status"]) == 0
