"""A node's own key, the request for a certificate, and what a certificate says; by `cryptography`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NODE_URI = "edgewise:node:"


@dataclass(frozen=True)
class Validity:
    """When a certificate is good, by the wall clock."""

    from_unix_s: float
    until_unix_s: float

    def renew_unix_s(self) -> float:
        """When two thirds of its life are over."""
        return self.from_unix_s + (self.until_unix_s - self.from_unix_s) * 2.0 / 3.0


def new_key() -> bytes:
    """A P-256 key as PEM. It never leaves this machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def request_for(name: str, key_pem: bytes) -> bytes:
    """A request for a certificate of this node, as PEM."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    )
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(NODE_URI + name)])
    request = builder.add_extension(names, critical=False).sign(_private(key_pem), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def fingerprint_of_key(key_pem: bytes) -> str:
    """SHA-256 of the public key in hex, for comparing by eye."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(_private(key_pem).public_key().public_bytes(serialization.Encoding.DER, form)).hexdigest()


def fingerprint_of_certificate(pem: bytes) -> str:
    """SHA-256 of a certificate as DER, in hex.

    Raises:
        ValueError: It is no certificate.
    """
    certificate = x509.load_pem_x509_certificate(pem)
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def validity(pem: bytes) -> Validity:
    """When a certificate is good.

    Raises:
        ValueError: It is no certificate.
    """
    certificate = x509.load_pem_x509_certificate(pem)
    return Validity(certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp())


def belong_together(certificate_pem: bytes, key_pem: bytes) -> bool:
    """Whether a certificate is for this key."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    return certificate.public_key() == _private(key_pem).public_key()


def _private(key_pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(key_pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an elliptic curve key")
    return key
