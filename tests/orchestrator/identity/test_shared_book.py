"""Gateways that share a store share who has joined; on a real PostgreSQL server, skipped loudly where there is none."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import postgres
from orchestrator.fleet.fleet import Refusal
from orchestrator.identity import sentry
from orchestrator.identity.authority import CERTIFICATE_FILE, KEY_FILE, Authority
from orchestrator.identity.errors import IdentityError
from orchestrator.identity.opening import Identity
from orchestrator.identity.peers import read_peer
from orchestrator.identity.records import Issued, MemberState, Peer
from orchestrator.identity.registrar import Registrar
from tests.orchestrator.builders import a_fleet
from tests.orchestrator.identity.builders import WallClock, a_registrar, a_request

psycopg = pytest.importorskip("psycopg", reason="NOT RUN: psycopg is not installed (the extra `postgres`)")
pytestmark = pytest.mark.skipif(bool(postgres.available()), reason=f"NOT RUN: {postgres.available()}")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres.server() as conninfo:
        yield conninfo


@pytest.fixture
def conninfo(server: str) -> str:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS identity")
    return server


def replica(conninfo: str, folder: Path, first: Path | None = None, *, manual: bool = False) -> Registrar:
    """A gateway's registrar; with the authority of the first one where there is one."""
    from orchestrator.identity.shared_book import SharedBook

    folder.mkdir(exist_ok=True)
    for name in (KEY_FILE, CERTIFICATE_FILE) if first else ():
        shutil.copy2(first / name, folder / name)  # type: ignore[operator]
    clock = WallClock()
    authority = Authority(folder, clock_unix_s=clock)
    book = SharedBook(conninfo, authority.fingerprint, folder / "identity.json")
    return Registrar(authority, book, manual=manual, clock_unix_s=clock, random=os.urandom)


@pytest.fixture
def pair(conninfo: str, tmp_path: Path) -> tuple[Registrar, Registrar]:
    return replica(conninfo, tmp_path / "a"), replica(conninfo, tmp_path / "b", tmp_path / "a")


def joined(registrar: Registrar, text: str, node: str = "n1") -> Issued:
    issued = registrar.join(node, text, a_request(node))
    assert issued is not None
    return issued


def peer_of(issued: Issued) -> Peer:
    peer = read_peer(issued.pem)
    assert peer is not None
    return peer


def why(registrar: Registrar, peer: Peer) -> str:
    objection = registrar.objection(peer)
    return "" if objection is None else objection.reason


def reason(refused: Refusal | None) -> str:
    return "" if refused is None else refused.reason


def gatekeeper(registrar: Registrar, folder: Path) -> Identity:
    """What a gateway asks who may open a stream."""
    watch = sentry.Sentry(registrar, a_fleet(), clock_s=time.monotonic, clock_unix_s=WallClock())
    return Identity(registrar, watch, folder, b"", b"")


def test_a_token_of_one_is_good_once_at_any_of_them(pair: tuple[Registrar, Registrar]) -> None:
    one, other = pair
    _, text = one.create_token("", 900.0)
    joined(other, text)
    for registrar in pair:
        with pytest.raises(IdentityError) as caught:
            registrar.join("n2", text, a_request("n2"))
        assert caught.value.reason == "CREDENTIAL_INVALID"


def test_who_joined_at_one_is_known_to_the_other_and_is_put_out_by_either(pair: tuple[Registrar, Registrar]) -> None:
    one, other = pair
    peer = peer_of(joined(one, one.create_token("", 900.0)[1]))
    assert why(other, peer) == "IDENTITY_UNKNOWN"
    other.refresh()
    assert why(other, peer) == ""
    other.revoke("n1")
    assert why(one, peer) == ""
    one.refresh()
    assert why(one, peer) == "IDENTITY_REVOKED"


async def test_who_has_just_joined_at_one_may_speak_at_the_other_without_waiting_for_it_to_read(
    pair: tuple[Registrar, Registrar], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = pair
    peer = peer_of(joined(one, one.create_token("", 900.0)[1]))
    monkeypatch.setattr(sentry, "peer_of", lambda context: context)
    at_other = gatekeeper(other, tmp_path)
    assert reason(at_other.sentry.refusal(peer, "n1")) == "IDENTITY_UNKNOWN"
    assert await at_other.refusal(peer, "n1") is None
    renewed = peer_of(one.renew(peer, a_request("n1")))
    assert await at_other.refusal(renewed, "n1") is None
    one.revoke("n1")
    at_other.registrar.refresh()
    assert reason(await at_other.refusal(renewed, "n1")) == "IDENTITY_REVOKED"


async def test_while_the_book_cannot_be_read_a_stranger_stays_a_stranger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentry, "peer_of", lambda context: context)
    with postgres.server() as conninfo:
        one = replica(conninfo, tmp_path / "a")
        at_other = gatekeeper(replica(conninfo, tmp_path / "b", tmp_path / "a"), tmp_path)
        peer = peer_of(joined(one, one.create_token("", 900.0)[1]))
    assert reason(await at_other.refusal(peer, "n1")) == "IDENTITY_UNKNOWN"


def test_without_a_shared_book_the_other_knows_nobody(tmp_path: Path) -> None:
    """The control: the same authority alone is not enough."""
    one = a_registrar(tmp_path / "a", WallClock())
    (tmp_path / "b").mkdir()
    for name in (KEY_FILE, CERTIFICATE_FILE):
        shutil.copy2(tmp_path / "a" / name, tmp_path / "b" / name)
    other = a_registrar(tmp_path / "b", WallClock())
    peer = peer_of(joined(one, one.create_token("", 900.0)[1]))
    other.refresh()
    assert (why(one, peer), why(other, peer)) == ("", "IDENTITY_UNKNOWN")


def test_a_certificate_is_renewed_and_a_node_approved_at_either(conninfo: str, tmp_path: Path) -> None:
    one = replica(conninfo, tmp_path / "a", manual=True)
    other = replica(conninfo, tmp_path / "b", tmp_path / "a", manual=True)
    _, text = one.create_token("", 900.0)
    request = a_request("n1")
    assert one.join("n1", text, request) is None
    assert other.approve("n1").state is MemberState.APPROVED
    issued = one.join("n1", text, request)
    assert issued is not None
    renewed = other.renew(peer_of(issued), a_request("n1"))
    one.refresh()
    assert [why(one, peer_of(each)) for each in (issued, renewed)] == ["", ""]


def test_an_authority_of_its_own_is_refused_with_what_to_do(conninfo: str, tmp_path: Path) -> None:
    replica(conninfo, tmp_path / "a")
    with pytest.raises(IdentityError, match=r"ca\.key") as caught:
        replica(conninfo, tmp_path / "c")
    assert caught.value.reason == "AUTHORITY_DIFFERS"


def test_a_gateway_that_was_alone_brings_its_nodes_along(conninfo: str, tmp_path: Path) -> None:
    alone = a_registrar(tmp_path / "a", WallClock())
    peer = peer_of(joined(alone, alone.create_token("", 900.0)[1]))
    one = replica(conninfo, tmp_path / "a")
    other = replica(conninfo, tmp_path / "b", tmp_path / "a")
    assert (why(one, peer), why(other, peer)) == ("", "")


def test_while_the_server_is_away_nothing_changes_and_what_is_known_holds(tmp_path: Path) -> None:
    with postgres.server() as conninfo:
        one = replica(conninfo, tmp_path / "a")
        peer = peer_of(joined(one, one.create_token("", 900.0)[1]))
    for change in (lambda: one.revoke("n1"), lambda: one.create_token("", 900.0), one.refresh):
        with pytest.raises(IdentityError) as caught:
            change()
        assert caught.value.reason == "IDENTITY_STORE_FAILED"
    assert (why(one, peer), len(one.tokens())) == ("", 1)
