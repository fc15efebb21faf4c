"""A gateway with TLS over real sockets: who gets in, who does not, and what each is told."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from edgewise.v1 import identity_pb2
from nodes.identity.errors import IdentityProblem
from nodes.identity.folder import NodeIdentity
from nodes.identity.https import Reply, ask, parse_place, unverified, verified
from nodes.identity.keys import new_key, request_for
from nodes.identity.token import parse_token
from nodes.identity.wire import RenewalFailed, renew
from orchestrator.client import AsyncClient, Client
from orchestrator.client.tls import TlsFailed
from orchestrator.config import Nodes, Tls
from orchestrator.errors import EdgewiseError, ExitCode
from orchestrator.identity import sentry
from tests.fakes.behaviours import answers
from tests.fakes.live import live_gateway, until
from tests.fakes.node import JoinRefused
from tests.fakes.secure import Secure, secure_gateway
from tests.orchestrator.gateway.calls import digit, infer, refused, untyped

MANUAL = Nodes(heartbeat_s=0.1, lease_s=5.0, approval="manual")


@pytest.fixture
async def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Secure]:
    monkeypatch.setattr(sentry, "SWEEP_S", 0.05)
    async with secure_gateway(tmp_path) as live:
        yield live


async def post(live: Secure, body: bytes | dict[str, Any], *, address: str = "/v1/nodes/join") -> Reply:
    """POST what an ordinary node would not."""
    import http.client

    def send() -> Reply:
        place = parse_place(live.url)
        connection = http.client.HTTPSConnection(place.host, place.port, timeout=5, context=verified(live.ca))
        connection.request("POST", address, body if isinstance(body, bytes) else json.dumps(body))
        reply = connection.getresponse()
        return Reply(reply.status, reply.read(), None)

    return await asyncio.to_thread(send)


async def why_refused(live: Secure, identity: NodeIdentity, **fields: Any) -> JoinRefused:
    with pytest.raises(JoinRefused) as caught:
        await live.secure_node(identity, behaviour=answers(7), **fields).join()
    return caught.value


# ---- the way in


async def test_a_node_joins_by_its_token_and_answers(live: Secure) -> None:
    identity = await live.join()
    assert identity.gateway == live.nodes_port
    async with live.secure_node(identity, behaviour=answers(7)):
        assert (await infer(live, digit())).label == "7"


async def test_the_authority_is_told_to_everybody_and_is_what_the_token_names(live: Secure) -> None:
    reply = await asyncio.to_thread(ask, parse_place(live.url), "/cacerts", context=unverified())
    assert (reply.status, reply.body) == (200, live.ca)
    assert parse_token(live.token()).authority == live.identity.registrar.authority.fingerprint


async def test_a_token_is_good_once(live: Secure) -> None:
    token = live.token()
    await live.join("one", token)
    before = live.identity.registrar.members()
    with pytest.raises(IdentityProblem, match="CREDENTIAL_INVALID") as caught:
        await live.join("two", token)
    assert caught.value.exit_code.name == ExitCode.AUTH.name
    assert live.identity.registrar.members() == before


async def test_of_many_at_once_one_gets_in(live: Secure) -> None:
    token = live.token()
    found = await asyncio.gather(*(live.join(f"n{n}", token) for n in range(3)), return_exceptions=True)
    assert sum(isinstance(entry, NodeIdentity) for entry in found) == 1
    assert len(live.identity.registrar.members()) == 1


async def test_a_token_of_another_gateway_is_not_even_sent(live: Secure, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    from nodes.identity import join

    def watched(place: Any, path: str, **fields: Any) -> Reply:
        asked.append(path)
        return ask(place, path, **fields)

    monkeypatch.setattr(join, "ask", watched)
    foreign = f"K10{'0' * 64}::{live.token().partition('::')[2]}"
    with pytest.raises(IdentityProblem, match="was not sent"):
        await live.join("n1", foreign)
    assert asked == ["/cacerts"]


async def test_failures_are_slowed_down(live: Secure) -> None:
    good = live.token()
    body = {"name": "n1", "token": "K10x::00.x", "csr": request_for("n1", new_key()).decode()}
    assert [(await post(live, body)).status for _ in range(4)] == [401, 401, 401, 429]
    reply = await post(live, body | {"token": good})
    assert (reply.status, reply.json()["code"]) == (429, "too_many_attempts")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[" * 10_000,
        b"x" * 20_000,
        b'{"name": "n1", "token": "x"}',
        b'{"name": "n1", "token": "x", "csr": "y", "more": 1}',
        b'{"name": "n1", "name": "n2", "token": "x", "csr": "y"}',
        b'{"name": 1, "token": "x", "csr": "y"}',
        b'{"name": "../x", "token": "x", "csr": "y"}',
        b'{"name": "n1", "token": "\\ud800", "csr": "\\ud800"}',
    ],
)
async def test_bodies_that_are_none(live: Secure, body: bytes) -> None:
    reply = await post(live, body)
    assert reply.status in (400, 401)
    assert reply.json()["code"] in ("malformed_message", "name_invalid", "credential_invalid")
    assert live.identity.registrar.members() == []


async def test_with_manual_approval_a_node_waits(tmp_path: Path) -> None:
    async with secure_gateway(tmp_path, nodes=MANUAL) as live:
        paused = asyncio.Event()
        loop = asyncio.get_running_loop()

        def pause(_: float) -> None:
            loop.call_soon_threadsafe(paused.set)
            time.sleep(0.02)

        joining = asyncio.ensure_future(live.join("n1", sleep=pause))
        await asyncio.wait_for(paused.wait(), 5)
        (waiting,) = (await live.identities.ListNodes(identity_pb2.ListNodesRequest(), timeout=5)).nodes
        assert (waiting.state, waiting.HasField("expires_unix_s")) == ("pending", False)
        await live.identities.ApproveNode(identity_pb2.ApproveNodeRequest(node="n1"), timeout=5)
        async with live.secure_node(await joining, behaviour=answers(7)):
            assert (await infer(live, digit())).label == "7"


async def test_after_a_restart_nodes_and_clients_go_on_and_used_tokens_stay_used(tmp_path: Path) -> None:
    async with secure_gateway(tmp_path) as before:
        token = before.token()
        identity = await before.join("n1", token)
        chain = before.identity.chain_pem
    async with secure_gateway(tmp_path) as live:
        # The gateway's own certificate is another one, its authority the same.
        assert live.identity.chain_pem != chain
        async with live.secure_node(identity, behaviour=answers(7)):
            assert (await infer(live, digit())).label == "7"
        with pytest.raises(IdentityProblem, match="CREDENTIAL_INVALID"):
            await live.join("n2", token)


async def test_everything_else_over_http_is_encrypted_too(live: Secure) -> None:
    place = parse_place(live.url)
    told = await asyncio.to_thread(ask, place, "/healthz", context=verified(live.ca))
    assert (told.status, told.body) == (200, b"ok\n")
    with pytest.raises(ssl.SSLError):
        await asyncio.to_thread(ask, place, "/healthz", context=ssl.create_default_context())


# ---- who is who


async def test_a_node_cannot_speak_for_another(live: Secure) -> None:
    mine, _ = await live.join("mine"), await live.join("other")
    refusal = await why_refused(live, mine, name="other")
    assert (refusal.reason, refusal.retryable) == ("IDENTITY_MISMATCH", False)
    assert live.gateway.service.fleet.known == {}


async def test_without_a_certificate_nobody_connects_to_the_nodes_port(live: Secure) -> None:
    channel = grpc.aio.secure_channel(live.nodes_port, grpc.ssl_channel_credentials(live.ca))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await untyped(channel).unary_unary("/edgewise.v1.Identity/Renew")(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await channel.close(None)


async def test_nodes_call_nothing_but_what_is_theirs(live: Secure) -> None:
    channel = live.channel_of(await live.join())
    for method in ("/edgewise.v1.Identity/CreateToken", "/edgewise.v1.Identity/RevokeNode"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await untyped(channel).unary_unary(method)(b"", timeout=5)
        assert refused(caught.value).reason == "PERMISSION_DENIED"
    for method in ("/edgewise.v1.Gateway/Infer", "/edgewise.v1.Admin/GetStatus"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await untyped(channel).unary_unary(method)(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await channel.close(None)


async def test_nodes_are_not_taken_at_the_clients_port(live: Secure) -> None:
    identity = await live.join()
    refusal = await why_refused(live, identity, channel=live.channel_of(identity, live.address))
    assert (refusal.reason, refusal.retryable) == ("IDENTITY_REQUIRED", False)


async def test_a_certificate_of_another_authority_is_worth_nothing(live: Secure, tmp_path: Path) -> None:
    async with secure_gateway(tmp_path / "other") as other:
        foreign = await other.join()
    mixed = NodeIdentity("fake-1", live.nodes_port, live.ca, foreign.certificate_pem, foreign.key_pem)
    channel = live.channel_of(mixed)
    with pytest.raises(RenewalFailed, match="UNAVAILABLE"):
        await renew(channel, request_for("fake-1", new_key()))
    await channel.close(None)


# ---- the way out


async def test_revoking_ends_the_stream_at_once_and_for_good(live: Secure) -> None:
    identity = await live.join()
    channel = live.channel_of(identity)
    node = live.secure_node(identity, behaviour=answers(7), channel=channel)
    await node.join()
    assert (await infer(live, digit())).label == "7"
    started_s = time.monotonic()
    await live.identities.RevokeNode(identity_pb2.RevokeNodeRequest(node="fake-1"), timeout=5)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await infer(live, digit())
    assert refused(caught.value).reason == "NO_NODE"
    # The next call on the connection that is still open.
    with pytest.raises(RenewalFailed, match="PERMISSION_DENIED"):
        await renew(channel, request_for("fake-1", new_key()))
    await asyncio.wait_for(node.seen.ended.wait(), 5)
    assert time.monotonic() - started_s < 5.0
    again = await why_refused(live, identity, channel=channel)
    assert (again.reason, again.retryable) == ("IDENTITY_REVOKED", False)
    await node.vanish()
    assert (await why_refused(live, identity)).reason == "IDENTITY_REVOKED"


async def test_a_session_ends_with_its_certificate_and_the_renewed_one_goes_on(live: Secure) -> None:
    live.identity.registrar.authority.node_life_s = 3.0
    identity = await live.join()
    node = live.secure_node(identity, behaviour=answers(7))
    await node.join()
    live.identity.registrar.authority.node_life_s = 60.0
    key = new_key()
    channel = live.channel_of(identity)
    certificate = await renew(channel, request_for("fake-1", key))
    await asyncio.wait_for(node.seen.ended.wait(), 5)
    # The connection still stands; what is asked on it is looked at anew.
    with pytest.raises(RenewalFailed, match="PERMISSION_DENIED"):
        await renew(channel, request_for("fake-1", new_key()))
    await channel.close(None)
    await node.vanish()
    await until(lambda: "fake-1" not in live.gateway.service.fleet.sessions)
    renewed = NodeIdentity("fake-1", live.nodes_port, live.ca, certificate, key)
    async with live.secure_node(renewed, behaviour=answers(7)):
        assert (await infer(live, digit())).label == "7"


async def test_before_it_ends_a_session_gets_no_new_work(live: Secure) -> None:
    live.identity.registrar.authority.node_life_s = sentry.DRAIN_S - 1.0
    async with live.secure_node(await live.join("short"), behaviour=answers(1)):
        await until(lambda: live.gateway.service.fleet.state("short").value == "draining")


async def test_a_wall_clock_that_is_set_ends_no_session(live: Secure, monkeypatch: pytest.MonkeyPatch) -> None:
    async with live.secure_node(await live.join(), behaviour=answers(7)) as node:
        monkeypatch.setattr(live.identity.registrar, "_now", lambda: time.time() + 10 * 365 * 86_400.0)
        live.identity.sentry.look()
        await asyncio.sleep(0.3)
        assert not node.seen.ended.is_set()
        assert live.gateway.service.fleet.state("fake-1").value == "healthy"


# ---- clients


async def test_clients_with_the_authority_get_answers(live: Secure, tmp_path: Path) -> None:
    ca_file = tmp_path / "identity" / "ca.pem"
    async with (
        live.secure_node(await live.join(), behaviour=answers(7)),
        AsyncClient(live.address, ca_file=ca_file) as client,
    ):
        assert (await client.status()).nodes[0].node == "fake-1"

    def blocking() -> str:
        with Client(live.address, ca_file=ca_file) as client:
            made = client.create_token("n9")
            client.revoke_token(made.token.token_id)
            return client.tokens()[-1].state

    assert await asyncio.to_thread(blocking) == "revoked"


def status(target: str, **fields: Any) -> str:
    """Why a call failed."""
    with pytest.raises(EdgewiseError) as caught, Client(target, timeout_s=5.0, **fields) as client:
        client.status()
    assert isinstance(caught.value, TlsFailed)
    assert caught.value.surface.exit_code is ExitCode.AUTH
    return caught.value.message


async def test_a_client_without_the_authority_is_told_so(live: Secure) -> None:
    assert "speaks TLS" in await asyncio.to_thread(status, live.address)
    with pytest.raises(TlsFailed, match="--ca FILE"):
        async with AsyncClient(live.address, timeout_s=5.0) as client:
            await client.status()


async def test_a_client_with_another_authority_or_name_is_told_so(live: Secure, tmp_path: Path) -> None:
    async with secure_gateway(tmp_path / "other"):
        foreign = tmp_path / "other" / "identity" / "ca.pem"
    assert "not signed by" in await asyncio.to_thread(lambda: status(live.address, ca_file=foreign))
    with pytest.raises(TlsFailed, match="holds no certificate"):
        Client(live.address, ca_file=tmp_path / "absent.pem")


async def test_a_client_that_uses_another_name_is_told_the_right_ones(tmp_path: Path) -> None:
    async with secure_gateway(tmp_path, listen="0.0.0.0:0", tls=Tls(san=("gw.example",))) as live:
        port = live.address.rpartition(":")[2]
        own = tmp_path / "identity" / "ca.pem"
        told = await asyncio.to_thread(lambda: status(f"127.0.0.2:{port}", ca_file=own))
        assert "not for 127.0.0.2" in told
        assert "gw.example" in told


async def test_a_client_that_wants_tls_of_a_plaintext_gateway_is_told_so(live: Secure, tmp_path: Path) -> None:
    ca_file = tmp_path / "identity" / "ca.pem"
    async with live_gateway(tmp_path / "plain") as plain:
        assert "does not speak TLS" in await asyncio.to_thread(lambda: status(plain.address, ca_file=ca_file))


async def test_without_tls_there_are_no_tokens(tmp_path: Path) -> None:
    async with live_gateway(tmp_path) as plain:

        def ask_for_one() -> EdgewiseError:
            with pytest.raises(EdgewiseError) as caught, Client(plain.address) as client:
                client.create_token()
            return caught.value

        assert (await asyncio.to_thread(ask_for_one)).reason == "TLS_OFF"
    assert not (tmp_path / "identity").exists()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
@pytest.mark.parametrize("port", ["clients", "nodes", "http"])
async def test_old_versions_of_tls_are_refused(live: Secure, port: str) -> None:
    targets = {"clients": live.address, "nodes": live.nodes_port, "http": live.gateway.config.http_listen}
    number = int(targets[port].rpartition(":")[2])
    await live.join()

    def shake_hands(newest: ssl.TLSVersion) -> str:
        import socket

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(live.folder / "nodes" / "fake-1" / "node.pem")
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.set_alpn_protocols(["h2"])
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = newest
        with socket.create_connection(("127.0.0.1", number), timeout=5) as plain:
            try:
                with context.wrap_socket(plain) as connection:
                    return connection.version() or ""
            except ssl.SSLError as error:
                return error.reason or ""

    # The other end hangs up, with an alert or without one.
    refusals = ("TLSV1_ALERT_PROTOCOL_VERSION", "UNEXPECTED_EOF_WHILE_READING")
    assert await asyncio.to_thread(shake_hands, ssl.TLSVersion.TLSv1_1) in refusals
    assert await asyncio.to_thread(shake_hands, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    assert await asyncio.to_thread(shake_hands, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
