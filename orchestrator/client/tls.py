"""TLS between clients and a gateway, and why it fails where it does: to gRPC every failure looks like "unavailable"."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from orchestrator.errors import EdgewiseError, ExitCode, Surface

TIMEOUT_S = 2.0
# Of OpenSSL's x509_vfy.h.
NO_CHECK_TIME = 0x200000
OUT_OF_TIME, WRONG_NAME = (9, 10), (62, 64)
SURFACE = Surface(grpc.StatusCode.UNAVAILABLE, 502, "tls_failed", ExitCode.AUTH, False)


class TlsFailed(EdgewiseError):
    """The connection is not, or cannot be, protected as it must be."""

    def __init__(self, message: str, target: str) -> None:
        super().__init__("TLS_FAILED", message, metadata={"target": target})

    @property
    def surface(self) -> Surface:
        """Known to clients only, hence not in the catalogue of what a gateway can say."""
        return SURFACE


def read_authority(file: Path | str) -> bytes:
    """The certificate of a gateway's authority.

    Raises:
        TlsFailed: The file cannot be read or holds no certificate.
    """
    try:
        pem = Path(file).read_bytes()
        _context(pem)
    except (OSError, ValueError) as error:
        raise TlsFailed(f"{file} holds no certificate (PEM); copy ca.pem from the gateway.", "") from error
    return pem


def speaks_tls(target: str, authority_pem: bytes) -> bool:
    """Whether the server there proves by this authority who it is. Blocks for a handshake."""
    with contextlib.suppress(OSError), _handshake(target, _context(authority_pem)):
        return True
    return False


def why(target: str, authority_pem: bytes | None, *, clock_unix_s: Callable[[], float] = time.time) -> TlsFailed | None:
    """What TLS has to do with a gateway that is unavailable; None where nothing. Blocks for a handshake or two."""
    try:
        if authority_pem is None:
            return _unencrypted(target)
        with _handshake(target, _context(authority_pem)):
            return None
    except ssl.SSLCertVerificationError as error:
        text = _unverified(target, authority_pem or b"", error.verify_code, clock_unix_s())
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        text = f"what answers at {target} does not speak TLS; leave out --ca if its gateway runs with tls.mode off."
    except ssl.SSLError as error:
        if error.reason not in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
            text = f"TLS with {target} fails ({error.reason or 'no reason'})."
        else:
            text = f"what answers at {target} does not speak TLS; leave out --ca if its gateway runs with tls.mode off."
    except OSError:
        return None
    return TlsFailed(text, target)


def _unencrypted(target: str) -> TlsFailed | None:
    """We spoke plaintext: a server that answers a handshake wants TLS."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with _handshake(target, context):
            text = f"{target} speaks TLS; name its authority with --ca FILE (ca.pem in the gateway's state folder)."
            return TlsFailed(text, target)
    except OSError:
        return None


def _unverified(target: str, authority_pem: bytes, code: int, now_unix_s: float) -> str:
    if code in WRONG_NAME:
        shown = _peer_certificate(target, authority_pem, check_time=True).get("subjectAltName", ())
        names = ", ".join(str(name) for kind, name in shown if kind in ("DNS", "IP Address"))
        return f"The gateway's certificate is not for {target} but for {names}; use one of these, or --tls-san there."
    if code in OUT_OF_TIME:
        certificate = _peer_certificate(target, authority_pem, check_time=False)
        begins = certificate.get("notBefore")
        behind_s = ssl.cert_time_to_seconds(begins) - now_unix_s if begins else 0.0
        if behind_s > 0:
            return f"The clock of this machine is at least {behind_s:.0f} s behind the gateway's; set it."
        return "By this machine's clock the gateway's certificate has expired; set the clock, or restart the gateway."
    return f"The certificate shown at {target} was not signed by the authority of --ca; is it another gateway's?"


def _peer_certificate(target: str, authority_pem: bytes, *, check_time: bool) -> dict[str, Any]:
    context = _context(authority_pem)
    context.check_hostname = False
    if not check_time:
        context.verify_flags = ssl.VerifyFlags(int(context.verify_flags) | NO_CHECK_TIME)
    with contextlib.suppress(OSError), _handshake(target, context) as connection:
        return dict(connection.getpeercert() or {})
    return {}


def _context(authority_pem: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority_pem.decode("ascii", "replace"))
    return context


@contextlib.contextmanager
def _handshake(target: str, context: ssl.SSLContext) -> Any:
    context.set_alpn_protocols(["h2"])
    host, _, port = target.rpartition(":")
    with (
        socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname=host.strip("[]")) as connection,
    ):
        yield connection
