"""The gateway's own certificate authority: makes certificates for the gateway and for nodes, by `cryptography`.

A node's name is a URI in its certificate, as SPIFFE does it; its certificate is good for proving who calls (not for
answering calls), for a day. ECDSA P-256 throughout.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from orchestrator.identity.book import write_private
from orchestrator.identity.errors import IdentityError
from orchestrator.identity.records import Issued

KEY_FILE, CERTIFICATE_FILE = "ca.key", "ca.pem"
NODE_URI = "edgewise:node:"
CA_LIFE = timedelta(days=3650)
# Made anew at each start.
SERVER_LIFE = timedelta(days=397)
NODE_LIFE_S = 86_400.0
# Clocks of two machines may differ by so much.
SKEW = timedelta(minutes=5)
OPEN_TO_OTHERS = 0o077
MAX_CSR_BYTES = 4096

Key = ec.EllipticCurvePrivateKey


class Authority:
    """Signs. Blocks: files are read and written when it is made.

    Args:
        folder: Where its key and certificate are, or will be.
        clock_unix_s: Wall time.

    Raises:
        IdentityError: STORE_CORRUPT or STORE_UNSAFE.
    """

    def __init__(self, folder: Path, *, clock_unix_s: Callable[[], float]) -> None:
        self._now_unix_s = clock_unix_s
        self.node_life_s = NODE_LIFE_S
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (folder / KEY_FILE).exists():
            _make(folder, self._now())
        self._key, self._certificate = _load(folder)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._now_unix_s(), UTC)

    @property
    def pem(self) -> bytes:
        """Its certificate, which everybody may have."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its certificate as DER, in hex: what a join token pins."""
        return hashlib.sha256(self._certificate.public_bytes(serialization.Encoding.DER)).hexdigest()

    def issue_server(self, names: Iterable[str]) -> tuple[bytes, bytes]:
        """A new key and a certificate for a server of these names and addresses, both as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
        builder = self._builder("edgewise gateway", key.public_key(), self._now() + SERVER_LIFE)
        certificate = self._sign(builder, alternatives, ExtendedKeyUsageOID.SERVER_AUTH)
        return private_pem(key), certificate.public_bytes(serialization.Encoding.PEM) + self.pem

    def read_request(self, pem: bytes, node: str) -> x509.CertificateSigningRequest:
        """A node's request for a certificate, checked.

        Raises:
            IdentityError: INPUT_INVALID.
        """
        if len(pem) > MAX_CSR_BYTES:
            raise _request_invalid()
        try:
            request = x509.load_pem_x509_csr(pem)
            key = request.public_key()
            names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            good = request.is_signature_valid and list(names) == [x509.UniformResourceIdentifier(NODE_URI + node)]
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
            raise _request_invalid() from error
        if not (good and isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)):
            raise _request_invalid()
        return request

    def issue_node(self, request: x509.CertificateSigningRequest, node: str) -> Issued:
        """A certificate for a checked request. Nothing is taken from the request but its key."""
        until = self._now() + timedelta(seconds=self.node_life_s)
        key = request.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        alternatives = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(NODE_URI + node)])
        certificate = self._sign(self._builder(node, key, until), alternatives, ExtendedKeyUsageOID.CLIENT_AUTH)
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        return Issued(pem, serial_text(certificate), certificate.not_valid_after_utc.timestamp())

    def _builder(self, name: str, key: ec.EllipticCurvePublicKey, until: datetime) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now() - SKEW)
            .not_valid_after(until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )

    def _sign(
        self, builder: x509.CertificateBuilder, names: x509.SubjectAlternativeName, purpose: x509.ObjectIdentifier
    ) -> x509.Certificate:
        builder = builder.add_extension(names, critical=False)
        return builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=True).sign(self._key, hashes.SHA256())


def key_fingerprint(request: x509.CertificateSigningRequest) -> str:
    """SHA-256 of a public key, in hex."""
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(request.public_key().public_bytes(encoding, form)).hexdigest()


def serial_text(certificate: x509.Certificate) -> str:
    """A serial number as text."""
    return f"{certificate.serial_number:x}"


def private_pem(key: Key) -> bytes:
    """A private key as PEM, not encrypted: what may read the file is the file's business."""
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _make(folder: Path, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    # Several gateways of one house are told apart by the name.
    name = _name(f"edgewise authority {x509.random_serial_number() % 16**8:08x}")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    # The key last: without it nothing is there yet.
    write_private(folder / CERTIFICATE_FILE, certificate.public_bytes(serialization.Encoding.PEM))
    (folder / CERTIFICATE_FILE).chmod(0o644)
    write_private(folder / KEY_FILE, private_pem(key))


def _load(folder: Path) -> tuple[Key, x509.Certificate]:
    if (folder / KEY_FILE).stat().st_mode & OPEN_TO_OTHERS:
        raise IdentityError("STORE_UNSAFE", f"{KEY_FILE} can be read by others; chmod 600 it, or make a new authority.")
    try:
        key = serialization.load_pem_private_key((folder / KEY_FILE).read_bytes(), None)
        certificate = x509.load_pem_x509_certificate((folder / CERTIFICATE_FILE).read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise _corrupt() from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise _corrupt()
    return key, certificate


def _corrupt() -> IdentityError:
    text = f"{KEY_FILE} and {CERTIFICATE_FILE} do not belong together or cannot be read; restore both."
    return IdentityError("STORE_CORRUPT", text)


def _request_invalid() -> IdentityError:
    return IdentityError("INPUT_INVALID", "csr must be a PEM request for a P-256 key and this node's name.")


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
