"""A node's identity: tokens read, kept whole, renewed in time, chosen by name."""

from __future__ import annotations

import asyncio
import random
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.agent.agent import Agent
from nodes.agent.parts import Parts
from nodes.config import NodeConfig
from nodes.errors import ConfigError, ExitCode, NodeError, SessionRejected
from nodes.identity import folder as kept
from nodes.identity import keys
from nodes.identity.choice import with_identity
from nodes.identity.errors import IdentityProblem, NoGateway
from nodes.identity.folder import NodeIdentity
from nodes.identity.https import Place, parse_place
from nodes.identity.join import Joining
from nodes.identity.keeper import Keeper
from nodes.identity.token import parse_token
from orchestrator.identity.peers import read_peer
from orchestrator.wire import encode_tensor
from tests.fakes.live import live_gateway, until
from tests.fakes.ports import free_address
from tests.fakes.secure import Secure, secure_gateway
from tests.orchestrator.gateway.calls import digit, infer

GOOD = f"K10{'a' * 64}::{'0' * 12}.{'s' * 43}"


def test_a_token_is_read_and_its_secret_does_not_show() -> None:
    token = parse_token(f" {GOOD}\n")
    assert (token.authority, token.secret) == ("a" * 64, f"{'0' * 12}.{'s' * 43}")
    assert "sss" not in repr(token)


@pytest.mark.parametrize("text", ["", "x", GOOD[3:], GOOD.replace("K10", "K11"), GOOD.replace("::", ":"), GOOD + " x"])
def test_what_is_no_token_is_not_repeated(text: str) -> None:
    with pytest.raises(IdentityProblem) as caught:
        parse_token(text)
    assert len(text) < 5 or text not in caught.value.message


@pytest.mark.parametrize("url", ["http://gw:8420", "gw:8420", "https://", "https://gw:x", "https://gw/x", "--profile"])
def test_a_token_goes_over_https_only(url: str) -> None:
    with pytest.raises(IdentityProblem, match="https://HOST"):
        parse_place(url)


def test_places() -> None:
    assert parse_place("https://gw") == Place("gw", 8420)
    assert parse_place("https://[fe80::1]:9") == Place("fe80::1", 9)
    assert Place("fe80::1", 9).netloc == "[fe80::1]:9"


# ---- kept


def an_identity(name: str = "n1", gateway: str = "gw:8422") -> NodeIdentity:
    return NodeIdentity(
        name, gateway, b"-----BEGIN CERTIFICATE-----\nca", b"-----BEGIN CERTIFICATE-----\nown", b"key\n"
    )


def test_an_identity_is_kept_for_its_owner_only(tmp_path: Path) -> None:
    kept.save(tmp_path / "n1", an_identity())
    assert kept.load(tmp_path / "n1") == an_identity()
    assert stat.S_IMODE((tmp_path / "n1").stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "n1").iterdir()} == {0o600}
    (tmp_path / "n1" / "node.json").write_text("{")
    with pytest.raises(IdentityProblem, match="join again"):
        kept.load(tmp_path / "n1")


def test_an_attempt_that_waits_keeps_its_key(tmp_path: Path) -> None:
    assert [kept.pending_key(tmp_path, key) for key in (b"a", b"b")] == [b"a", b"a"]
    kept.save(tmp_path, an_identity())
    assert kept.pending_key(tmp_path, b"c") == b"c"


def test_which_identity_a_run_takes(tmp_path: Path) -> None:
    environment = {"XDG_DATA_HOME": str(tmp_path)}
    root = kept.default_root(environment)

    def choose(**given: Any) -> dict[str, Any]:
        return with_identity(given, environment)

    with pytest.raises(ConfigError, match="edgewise node join"):
        choose(name="n1")
    assert choose(gateway="gw:8421") == {"gateway": "gw:8421"}
    kept.save(root / "n1", an_identity())
    n1 = {"identity": root / "n1", "name": "n1", "gateway": "gw:8422"}
    assert choose() == choose(name="n1") == choose(gateway="gw:8421") == n1
    # Another gateway has nothing to do with it.
    assert choose(gateway="127.0.0.1:8421", name="n1") == {"gateway": "127.0.0.1:8421", "name": "n1"}
    kept.save(root / "n2", an_identity("n2"))
    assert choose(name="n2")["identity"] == root / "n2"
    with pytest.raises(ConfigError, match="--name"):
        choose(identity=root / "n2", name="n1")
    with pytest.raises(IdentityProblem):
        choose(identity=tmp_path / "absent")


# ---- joining


async def test_joining_a_plaintext_gateway_or_nobody_is_told_apart(tmp_path: Path) -> None:
    async with live_gateway(tmp_path, http_listen=free_address()) as live:
        place = parse_place(f"https://{live.gateway.config.http_listen}")
        joining = Joining(place, parse_token(GOOD), "n1", tmp_path / "n1", print)
        with pytest.raises(IdentityProblem, match="does not speak TLS"):
            await asyncio.to_thread(joining.run)
    with pytest.raises(NoGateway) as caught:
        await asyncio.to_thread(joining.run)
    assert caught.value.exit_code == ExitCode.UNREACHABLE


async def test_clocks_that_differ_are_mentioned(tmp_path: Path) -> None:
    async with secure_gateway(tmp_path) as live:
        said: list[str] = []
        joining = Joining(
            parse_place(live.url),
            parse_token(live.token()),
            "n1",
            tmp_path / "n1",
            said.append,
            clock_unix_s=lambda: time.time() - 3 * 3600.0,
        )
        await asyncio.to_thread(joining.run)
    assert said == ["the clock of this machine is 3 h behind the gateway's"]


async def test_a_gateway_that_was_set_up_anew_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    async with secure_gateway(tmp_path / "old") as old:
        token = old.token()
    async with secure_gateway(tmp_path / "new") as new:
        with pytest.raises(IdentityProblem, match="not the one that the token is for"):
            await new.join("n1", token)
        assert new.identity.registrar.members() == []


# ---- renewing


async def test_a_certificate_is_renewed_when_two_thirds_of_its_life_are_over(tmp_path: Path) -> None:
    async with secure_gateway(tmp_path) as live:
        first = await live.join("n1")
        folder = tmp_path / "nodes" / "n1"
        keeper = Keeper(folder)
        assert await keeper.refresh(live.nodes_port) == 30.0
        assert kept.load(folder) == first
        # 16 h of 24 h, 5 min of which are for clocks that differ.
        late = Keeper(folder, clock_unix_s=lambda: time.time() + 16 * 3600.0)
        assert await late.refresh(live.nodes_port) == 0.0
        second = kept.load(folder)
        assert second.key_pem != first.key_pem
        assert keys.belong_together(second.certificate_pem, second.key_pem)
        assert replace(second, key_pem=first.key_pem, certificate_pem=first.certificate_pem) == first
        peers = [read_peer(entry.certificate_pem) for entry in (first, second)]
        assert [peer is not None and live.identity.registrar.objection(peer) is None for peer in peers] == [True] * 2
    # Nobody there: the old one is kept, and it is tried again.
    assert await late.refresh(live.nodes_port) == 30.0
    assert kept.load(folder) == second


# ---- an agent


def an_agent(live: Secure, name: str, parts: Parts) -> Agent:
    config = NodeConfig(gateway=live.nodes_port, name=name, identity=live.folder / "nodes" / name, profiling_s=0.05)
    return Agent(config, parts, rng=random.Random(1))


async def test_an_agent_answers_with_its_identity_and_leaves_when_it_is_revoked(tmp_path: Path, parts: Parts) -> None:
    async with secure_gateway(tmp_path) as live:
        await live.join("n1")
        agent = an_agent(live, "n1", parts)
        await agent.prepare()
        running = asyncio.ensure_future(agent.run())
        await until(lambda: "n1" in live.gateway.service.fleet.sessions)
        # The fake engine answers with the first pixels.
        image = np.eye(1, 64, 3, dtype=np.float32).reshape(1, 8, 8)
        assert (await infer(live, digit(inputs=[encode_tensor("image", image)]))).label == "3"
        live.identity.registrar.revoke("n1")
        with pytest.raises(SessionRejected, match="IDENTITY_REVOKED") as caught:
            await asyncio.wait_for(running, 5)
        assert caught.value.exit_code == ExitCode.AUTH
        await agent.close()


async def test_an_agent_comes_again_with_its_renewed_certificate(tmp_path: Path, parts: Parts) -> None:
    async with secure_gateway(tmp_path) as live:
        authority = live.identity.registrar.authority
        authority.node_life_s = 100.0
        first = await live.join("n1")
        authority.node_life_s = 86_400.0
        agent = an_agent(live, "n1", parts)
        await agent.prepare()
        joined: set[int] = set()
        live.gateway.service.fleet.subscribe(
            lambda _: joined.update(session.epoch for session in live.gateway.service.fleet.sessions.values())
        )
        running = asyncio.ensure_future(agent.run())
        await until(lambda: len(joined) == 2)
        assert kept.load(tmp_path / "nodes" / "n1").certificate_pem != first.certificate_pem
        await until(lambda: live.gateway.service.fleet.state("n1").value == "healthy")
        agent.drain("the test is over")
        await asyncio.wait_for(running, 5)
        assert len(joined) == 2
        await agent.close()


async def test_an_agent_that_cannot_be_believed_says_why_and_ends(tmp_path: Path, parts: Parts) -> None:
    async with secure_gateway(tmp_path) as live:
        live.identity.registrar.authority.node_life_s = 0.2
        await live.join("n1")
        agent = an_agent(live, "n1", parts)
        await asyncio.sleep(0.3)
        with pytest.raises(NodeError, match="own certificate expired") as caught:
            await asyncio.wait_for(agent.run(), 10)
        assert caught.value.exit_code == ExitCode.AUTH
        plain = Agent(NodeConfig(gateway=live.address, name="n2"), parts, rng=random.Random(1))
        with pytest.raises(IdentityProblem, match="edgewise node join"):
            await asyncio.wait_for(plain.run(), 10)
        await agent.close()
