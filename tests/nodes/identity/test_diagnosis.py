"""Each way in which TLS fails is told apart from the others, and says what would be right."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nodes.identity import folder as kept
from nodes.identity.check import check_identities
from nodes.identity.diagnosis import Cause, Shown, Trouble, describe_span, diagnose, wants_tls
from nodes.identity.errors import IdentityProblem
from nodes.identity.https import Place, place_of
from nodes.identity.keeper import Keeper
from orchestrator.identity.authority import Authority
from tests.fakes.secure import Secure, secure_gateway

DAY_S = 86_400.0


@contextmanager
def server(
    folder: Path, names: list[str], clock_unix_s: Callable[[], float] = time.time
) -> Iterator[tuple[Place, bytes]]:
    """A TLS server of an authority, whose clock may be wrong; where it is, and the authority."""
    authority = Authority(folder, clock_unix_s=clock_unix_s)
    key, chain = authority.issue_server(names)
    file = folder / "both.pem"
    file.write_bytes(key + chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    with listening(lambda plain: context.wrap_socket(plain, server_side=True).sendall(b"x")) as place:
        yield place, authority.pem


@contextmanager
def listening(answer: Callable[[socket.socket], Any]) -> Iterator[Place]:
    """Answers each connection and closes it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            with plain:
                try:
                    answer(plain)
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield Place("127.0.0.1", listener.getsockname()[1])
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def cause(trouble: Trouble | None) -> Cause | None:
    return trouble.cause if trouble else None


def test_nothing_is_wrong(tmp_path: Path) -> None:
    with server(tmp_path, ["127.0.0.1"]) as (place, authority):
        assert diagnose(place, Shown(authority)) is None


def test_the_clock_of_this_machine_is_behind_and_by_how_much(tmp_path: Path) -> None:
    with server(tmp_path, ["127.0.0.1"], lambda: time.time() + 3 * 3600.0) as (place, authority):
        found = diagnose(place, Shown(authority))
    assert found is not None
    assert (found.cause, found.passing) == (Cause.CLOCK, True)
    assert "at least 3 h behind" in found.text


def test_the_gateways_certificate_is_too_old(tmp_path: Path) -> None:
    with server(tmp_path, ["127.0.0.1"], lambda: time.time() - 400 * DAY_S) as (place, authority):
        found = diagnose(place, Shown(authority))
    assert found is not None
    assert (found.cause, found.passing) == (Cause.GATEWAY_EXPIRED, True)
    assert "3 d ago" in found.text


def test_another_authority(tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", clock_unix_s=time.time)
    with server(tmp_path / "one", ["127.0.0.1"]) as (place, _):
        found = diagnose(place, Shown(other.pem))
    assert found is not None
    assert (found.cause, found.passing) == (Cause.WRONG_AUTHORITY, False)


def test_another_name_and_the_right_ones(tmp_path: Path) -> None:
    with server(tmp_path, ["gw.example", "10.1.2.3"]) as (place, authority):
        found = diagnose(place, Shown(authority))
    assert found is not None
    assert found.cause is Cause.WRONG_NAME
    assert "gw.example, 10.1.2.3" in found.text
    assert "--tls-san" in found.text


def test_a_node_that_plays_gateway_is_found_out(tmp_path: Path) -> None:
    """The authority signed it, but not for answering calls."""
    from nodes.identity.keys import new_key, request_for

    authority = Authority(tmp_path, clock_unix_s=time.time)
    key = new_key()
    issued = authority.issue_node(authority.read_request(request_for("n1", key), "n1"), "n1")
    (tmp_path / "both.pem").write_bytes(key + issued.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")
    with listening(lambda plain: context.wrap_socket(plain, server_side=True).sendall(b"x")) as place:
        assert diagnose(place, Shown(authority.pem)) is not None


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\6\4\0\0\0\0\0\0\0\0\0\0\0", b""])
def test_no_tls_there(tmp_path: Path, said: bytes) -> None:
    authority = Authority(tmp_path, clock_unix_s=time.time)

    def answer(plain: socket.socket) -> None:
        plain.recv(4096)
        plain.sendall(said)

    with listening(answer) as place:
        assert cause(diagnose(place, Shown(authority.pem))) is Cause.PLAINTEXT
        assert wants_tls(place) is None


def test_nobody_there_is_no_matter_of_tls(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    authority = Authority(tmp_path, clock_unix_s=time.time)
    assert diagnose(Place("127.0.0.1", port), Shown(authority.pem)) is None
    assert wants_tls(Place("127.0.0.1", port)) is None


def test_a_node_without_an_identity_is_told_that_it_needs_one(tmp_path: Path) -> None:
    with server(tmp_path, ["127.0.0.1"]) as (place, _):
        found = wants_tls(place)
    assert found is not None
    assert "edgewise node join" in found.text


async def looked(live: Secure, name: str, clock_unix_s: Callable[[], float] = time.time) -> Trouble | None:
    return await Keeper(live.folder / "nodes" / name, clock_unix_s=clock_unix_s).trouble(live.nodes_port)


async def test_what_a_real_gateway_thinks_of_a_nodes_certificate(tmp_path: Path) -> None:
    async with secure_gateway(tmp_path) as live:
        await live.join("good")
        assert await looked(live, "good") is None
        # By its own clock the node's certificate is over, but the gateway takes it.
        live.identity.registrar.authority.node_life_s = 0.2
        await live.join("short")
        await asyncio.sleep(0.3)
        found = await looked(live, "short")
        assert found is not None
        assert (found.cause, found.passing) == (Cause.OWN_EXPIRED, False)
        assert "join again" in found.text
        # The node's clock is behind: it believes in its certificate, the gateway does not.
        found = await looked(live, "short", lambda: time.time() - 60.0)
        assert found is not None
        assert (found.cause, found.passing) == (Cause.REFUSED, True)
        assert "clocks" in found.text
        place = place_of(live.nodes_port)
        assert cause(await asyncio.to_thread(diagnose, place, Shown(live.ca))) is Cause.UNKNOWN


async def test_doctor_says_the_same(tmp_path: Path) -> None:
    environment = {"XDG_DATA_HOME": str(tmp_path / "data")}
    assert check_identities(environment) == "none; gateways without TLS need none"
    async with secure_gateway(tmp_path) as live:
        identity = await live.join("n1")
        kept.save(kept.default_root(environment) / "n1", identity)
        told = await asyncio.to_thread(check_identities, environment)
        assert told == f"n1 at {live.nodes_port}, good for 24 h"
        live.identity.registrar.authority.node_life_s = 0.2
        kept.save(kept.default_root(environment) / "n2", await live.join("n2"))
        await asyncio.sleep(0.3)
        with pytest.raises(IdentityProblem, match=r"n2: own certificate expired: .* join again"):
            await asyncio.to_thread(check_identities, environment)


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3.0, "0 s"), (59.0, "59 s"), (300.0, "5 min"), (7200.0, "2 h"), (400 * DAY_S, "400 d")]
)
def test_spans_for_people(seconds: float, text: str) -> None:
    assert describe_span(seconds) == text
