"""Who calls, by the certificate of the TLS connection and by nothing else."""

from __future__ import annotations

from typing import Any

from cryptography import x509

from orchestrator.identity.authority import NODE_URI, serial_text
from orchestrator.identity.records import Peer


def peer_of(context: Any) -> Peer | None:
    """The node at the other end of a gRPC call; None where it has shown no certificate of a node.

    gRPC has checked by then that our authority signed it and that it was valid when the connection began.
    """
    shown = context.auth_context().get("x509_pem_cert")
    return read_peer(shown[0]) if shown else None


def read_peer(pem: bytes) -> Peer | None:
    """The node that a certificate names; None where it names none, or more than one."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound):
        return None
    if not uri.startswith(NODE_URI):
        return None
    until_unix_s = certificate.not_valid_after_utc.timestamp()
    return Peer(uri.removeprefix(NODE_URI), serial_text(certificate), until_unix_s)
