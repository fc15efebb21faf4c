"""Join tokens: good once, for a while, for one name; and what a certificate says."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from nodes.identity.keys import new_key
from orchestrator.identity.authority import Authority
from orchestrator.identity.book import Book
from orchestrator.identity.errors import IdentityError
from orchestrator.identity.peers import read_peer
from orchestrator.identity.records import MemberState
from orchestrator.identity.registrar import Registrar
from tests.orchestrator.identity.builders import WallClock, a_registrar, a_request, parts


@pytest.fixture
def clock() -> WallClock:
    return WallClock()


@pytest.fixture
def registrar(tmp_path: Path, clock: WallClock) -> Registrar:
    return a_registrar(tmp_path, clock)


def refused(registrar: Registrar, node: str, text: str, csr: bytes | None = None) -> str:
    before = registrar.members()
    with pytest.raises(IdentityError) as caught:
        registrar.join(node, text, a_request(node) if csr is None else csr)
    assert registrar.members() == before
    return caught.value.reason


def test_a_token_gives_one_certificate_to_one_node(registrar: Registrar, clock: WallClock) -> None:
    _, text = registrar.create_token("", 900.0)
    issued = registrar.join("n1", text, a_request("n1"))
    assert issued is not None
    peer = read_peer(issued.pem)
    assert peer is not None
    assert (peer.name, peer.serial, peer.expires_unix_s) == ("n1", issued.serial, clock.now_unix_s + 86_400.0)
    assert registrar.objection(peer) is None
    assert [refused(registrar, name, text) for name in ("n1", "n2")] == ["CREDENTIAL_INVALID"] * 2


def test_a_token_that_was_used_is_used_after_a_restart(tmp_path: Path, clock: WallClock) -> None:
    before = a_registrar(tmp_path, clock)
    _, text = before.create_token("", 900.0)
    _, other = before.create_token("", 900.0)
    issued = before.join("n1", text, a_request("n1"))
    assert issued is not None
    after = a_registrar(tmp_path, clock)
    assert after.authority.pem == before.authority.pem
    assert refused(after, "n2", text) == "CREDENTIAL_INVALID"
    assert after.join("n2", other, a_request("n2")) is not None
    peer = read_peer(issued.pem)
    assert peer is not None
    assert after.objection(peer) is None


def test_time_runs_out(registrar: Registrar, clock: WallClock) -> None:
    token, text = registrar.create_token("", 900.0)
    clock.now_unix_s += 899.0
    assert token.state(clock.now_unix_s) == "good"
    clock.now_unix_s += 1.0
    assert refused(registrar, "n1", text) == "CREDENTIAL_EXPIRED"
    # Only who knows the secret is told that it would have been right.
    assert refused(registrar, "n1", text[:-4] + "AAAA") == "CREDENTIAL_INVALID"


def test_a_token_for_one_name_is_for_no_other(registrar: Registrar) -> None:
    _, text = registrar.create_token("n1", 900.0)
    assert refused(registrar, "n2", text) == "CREDENTIAL_INVALID"
    assert registrar.join("n1", text, a_request("n1")) is not None


def test_nothing_tells_which_part_of_a_token_is_wrong(registrar: Registrar) -> None:
    _, good = registrar.create_token("", 900.0)
    token, revoked = registrar.create_token("", 900.0)
    registrar.revoke_token(token.token_id)
    found = parts(good)
    forged = [
        f"K10{found['authority']}::{found['id']}.{found['secret'][::-1]}",
        f"K10{found['authority']}::{'0' * 12}.{found['secret']}",
        f"K10{found['authority']}::{found['id']}.",
        good + "A",
        good[:-1],
        "",
        "::",
        ".",
        "\ud800",
        "K10" + "0" * 100_000,
        revoked,
    ]
    texts = set()
    for text in forged:
        with pytest.raises(IdentityError) as caught:
            registrar.join("n1", text, a_request())
        texts.add((caught.value.reason, caught.value.message))
    assert len(texts) == 1
    assert texts.pop()[0] == "CREDENTIAL_INVALID"
    assert registrar.join("n1", good, a_request()) is not None


def test_the_secret_is_not_kept(registrar: Registrar, tmp_path: Path) -> None:
    _, text = registrar.create_token("", 900.0)
    kept = (tmp_path / "identity.json").read_text()
    assert parts(text)["secret"] not in kept
    assert parts(text)["id"] in kept
    for file in ("identity.json", "ca.key"):
        assert stat.S_IMODE((tmp_path / file).stat().st_mode) == 0o600


def test_a_name_that_is_taken_is_given_away_by_the_operator_only(registrar: Registrar) -> None:
    first = registrar.join("n1", registrar.create_token("", 900.0)[1], a_request())
    assert first is not None
    _, text = registrar.create_token("", 900.0)
    assert refused(registrar, "n1", text) == "NODE_EXISTS"
    assert registrar.join("n2", text, a_request("n2")) is not None
    again = registrar.join("n1", registrar.create_token("n1", 900.0)[1], a_request())
    assert again is not None
    old, new = read_peer(first.pem), read_peer(again.pem)
    assert old is not None
    assert new is not None
    found = registrar.objection(old)
    assert found is not None
    assert found.reason == "IDENTITY_REPLACED"
    assert registrar.objection(new) is None


# ---- approval


def test_with_manual_approval_the_same_key_may_ask_again_and_no_other(tmp_path: Path, clock: WallClock) -> None:
    registrar = a_registrar(tmp_path, clock, manual=True)
    _, text = registrar.create_token("", 900.0)
    key = new_key()
    assert registrar.join("n1", text, a_request("n1", key)) is None
    clock.now_unix_s += 3600.0
    registrar = a_registrar(tmp_path, clock, manual=True)
    assert registrar.join("n1", text, a_request("n1", key)) is None
    assert refused(registrar, "n1", text) == "CREDENTIAL_INVALID"
    assert refused(registrar, "n2", text, a_request("n2", key)) == "CREDENTIAL_INVALID"
    registrar.approve("n1")
    assert registrar.join("n1", text, a_request("n1", key)) is not None
    assert refused(registrar, "n1", text, a_request("n1", key)) == "CREDENTIAL_INVALID"


def test_whoever_is_revoked_while_waiting_gets_nothing(tmp_path: Path, clock: WallClock) -> None:
    registrar = a_registrar(tmp_path, clock, manual=True)
    _, text = registrar.create_token("", 900.0)
    key = new_key()
    registrar.join("n1", text, a_request("n1", key))
    registrar.revoke("n1")
    assert refused(registrar, "n1", text, a_request("n1", key)) == "IDENTITY_REVOKED"
    with pytest.raises(IdentityError, match="revoked"):
        registrar.approve("n1")
    with pytest.raises(IdentityError, match="No node"):
        registrar.approve("n2")


# ---- revoking and renewing


def test_a_revoked_node_is_out_until_it_gets_a_token_of_its_own(tmp_path: Path, clock: WallClock) -> None:
    registrar = a_registrar(tmp_path, clock)
    issued = registrar.join("n1", registrar.create_token("", 900.0)[1], a_request())
    assert issued is not None
    peer = read_peer(issued.pem)
    assert peer is not None
    registrar.revoke("n1")
    for each in (registrar, a_registrar(tmp_path, clock)):
        found = each.objection(peer)
        assert found is not None
        assert (found.reason, found.retryable) == ("IDENTITY_REVOKED", False)
    with pytest.raises(IdentityError) as caught:
        registrar.renew(peer, a_request())
    assert caught.value.reason == "IDENTITY_REVOKED"
    assert registrar.join("n1", registrar.create_token("n1", 900.0)[1], a_request()) is not None
    assert registrar.objection(peer) is not None
    assert registrar.members()[0].state is MemberState.APPROVED


def test_renewal_gives_a_further_certificate_while_the_old_one_is_good(registrar: Registrar, clock: WallClock) -> None:
    issued = registrar.join("n1", registrar.create_token("", 900.0)[1], a_request())
    assert issued is not None
    old = read_peer(issued.pem)
    assert old is not None
    clock.now_unix_s += 57_600.0
    with pytest.raises(IdentityError) as caught:
        registrar.renew(old, a_request("n2"))
    assert caught.value.reason == "INPUT_INVALID"
    new = read_peer(registrar.renew(old, a_request()).pem)
    assert new is not None
    assert registrar.objection(old) is None
    clock.now_unix_s += 28_800.0
    found = registrar.objection(old)
    assert found is not None
    assert found.reason == "IDENTITY_EXPIRED"
    assert registrar.objection(new) is None
    with pytest.raises(IdentityError):
        registrar.renew(old, a_request())


# ---- certificates


def _signed(key: object, builder: x509.CertificateSigningRequestBuilder) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)  # type: ignore[arg-type]


def bad_requests() -> dict[str, bytes]:
    """Requests that get no certificate."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    uri, dns = x509.UniformResourceIdentifier("edgewise:node:n1"), x509.DNSName("localhost")
    good = builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False)
    small, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
    signed = a_request("n1")
    return {
        "another name": a_request("n2"),
        "no name": _signed(small, builder),
        "a further name": _signed(
            small, builder.add_extension(x509.SubjectAlternativeName([uri, dns]), critical=False)
        ),
        "RSA": _signed(rsa.generate_private_key(65537, 2048), good),
        "P-384": _signed(key, good),
        "tampered": signed.replace(signed.splitlines()[3][:8], b"AAAAAAAA"),
        "no PEM": b"hello",
        "empty": b"",
        "huge": signed * 100,
    }


@pytest.mark.parametrize("kind", list(bad_requests()))
def test_bad_requests_are_refused_and_cost_no_token(registrar: Registrar, kind: str) -> None:
    _, text = registrar.create_token("", 900.0)
    assert refused(registrar, "n1", text, bad_requests()[kind]) == "INPUT_INVALID"
    assert registrar.join("n1", text, a_request("n1")) is not None


def test_a_node_cannot_pass_for_the_gateway_nor_sign_others(registrar: Registrar) -> None:
    issued = registrar.join("n1", registrar.create_token("", 900.0)[1], a_request())
    assert issued is not None
    certificate = x509.load_pem_x509_certificate(issued.pem)
    purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert list(purposes.value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert purposes.critical
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_what_names_no_node_is_no_peer(registrar: Registrar) -> None:
    _, server = registrar.authority.issue_server(["localhost", "127.0.0.1"])
    assert [read_peer(pem) for pem in (server, registrar.authority.pem, b"", b"hello")] == [None] * 4


def test_a_damaged_book_stops_the_gateway(tmp_path: Path, clock: WallClock) -> None:
    file = tmp_path / "identity.json"
    a_registrar(tmp_path, clock).create_token("", 900.0)
    whole = file.read_text()
    for text in (whole[: len(whole) // 2], "[]", json.dumps({"version": 9, "tokens": [], "members": []})):
        file.write_text(text)
        with pytest.raises(IdentityError) as caught:
            Book(file)
        assert caught.value.reason == "STORE_CORRUPT"


def test_a_key_that_others_can_read_or_of_another_authority_is_refused(tmp_path: Path, clock: WallClock) -> None:
    Authority(tmp_path / "a", clock_unix_s=clock)
    Authority(tmp_path / "b", clock_unix_s=clock)
    (tmp_path / "a" / "ca.key").chmod(0o644)
    with pytest.raises(IdentityError) as caught:
        Authority(tmp_path / "a", clock_unix_s=clock)
    assert caught.value.reason == "STORE_UNSAFE"
    (tmp_path / "a" / "ca.key").chmod(0o600)
    (tmp_path / "a" / "ca.pem").write_bytes((tmp_path / "b" / "ca.pem").read_bytes())
    with pytest.raises(IdentityError) as caught:
        Authority(tmp_path / "a", clock_unix_s=clock)
    assert caught.value.reason == "STORE_CORRUPT"


def test_lists_forget_what_is_long_over(registrar: Registrar, clock: WallClock) -> None:
    registrar.create_token("", 900.0)
    clock.now_unix_s += 90_000.0
    token, _ = registrar.create_token("", 900.0)
    assert [entry.token_id for entry in registrar.tokens()] == [token.token_id]


def test_what_cannot_be_written_down_has_not_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registrar = a_registrar(tmp_path, WallClock())
    _, text = registrar.create_token("", 900.0)

    def full(_file: Path, _content: bytes) -> None:
        raise OSError("no space")

    monkeypatch.setattr("orchestrator.identity.book.write_private", full)
    with pytest.raises(OSError, match="no space"):
        registrar.join("n1", text, a_request())
    monkeypatch.undo()
    assert registrar.members() == []
    assert registrar.join("n1", text, a_request()) is not None
    assert Book(tmp_path / "identity.json").members.keys() == {"n1"}
