"""Why TLS fails. To gRPC every failure looks like "unavailable", so a plain handshake is made beside it and looked at.

Standard library only: what a certificate says is read by verifying it a second time with less severity.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from nodes.identity.https import Place, unverified, verified

TIMEOUT_S = 3.0
# A server that does not like a certificate says so right after the handshake; one that does begins HTTP/2.
VERDICT_S = 1.0
# Of OpenSSL's x509_vfy.h.
NO_CHECK_TIME = 0x200000
# "Not yet valid" and "expired"; "wrong host name" and "wrong address".
OUT_OF_TIME, WRONG_NAME = (9, 10), (62, 64)


NO_IDENTITY = "the gateway wants a certificate from nodes; join it: `edgewise node join https://HOST:8420 --token …`"
# How a handshake with a plaintext server ends.
NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
CUT_OFF = (ssl.SSLEOFError, ssl.SSLZeroReturnError)


class Cause(StrEnum):
    """What is wrong."""

    CLOCK = "clock"
    WRONG_AUTHORITY = "wrong authority"
    WRONG_NAME = "wrong name"
    GATEWAY_EXPIRED = "gateway's certificate expired"
    OWN_EXPIRED = "own certificate expired"
    UNKNOWN = "no identity"
    REFUSED = "own certificate refused"
    PLAINTEXT = "no TLS there"
    OTHER = "TLS failed"


@dataclass(frozen=True)
class Trouble:
    """Why TLS fails; `passing` where time or another hand may mend it without this node's doing."""

    cause: Cause
    text: str
    passing: bool = False


@dataclass(frozen=True)
class Shown:
    """What this end shows and trusts: PEM, and a file with its own key and certificate, if any."""

    authority_pem: bytes
    own_file: Path | None = None


def diagnose(place: Place, shown: Shown, *, clock_unix_s: Callable[[], float] = time.time) -> Trouble | None:
    """Make a handshake and say what is wrong with it; None where nothing is, or where nobody answers. Blocks."""
    try:
        with _connected(place, _context(shown)) as connection:
            return _verdict(connection, shown)
    except ssl.SSLCertVerificationError as error:
        return _unverified(place, shown, error, clock_unix_s())
    except ssl.SSLError as error:
        return _refused(error) or without_tls(place, error)
    except (ConnectionResetError, BrokenPipeError, TimeoutError):
        return None
    except OSError:
        return None


def wants_tls(place: Place) -> Trouble | None:
    """Whether what answers there speaks TLS, where this node has no identity and spoke plaintext. Blocks."""
    context = unverified()
    try:
        with _connected(place, context):
            text = f"{place.netloc} speaks TLS, and this node has no identity there"
            return Trouble(Cause.UNKNOWN, f"{text}; join: `edgewise node join https://HOST:8420 --token …`")
    except ssl.SSLError as error:
        return None if (error.reason or "") in NO_TLS or isinstance(error, CUT_OFF) else _refused(error)
    except OSError:
        return None


def _context(shown: Shown) -> ssl.SSLContext:
    context = verified(shown.authority_pem)
    context.set_alpn_protocols(["h2", "http/1.1"])
    if shown.own_file is not None:
        context.load_cert_chain(shown.own_file)
    return context


def _connected(place: Place, context: ssl.SSLContext) -> ssl.SSLSocket:
    plain = socket.create_connection((place.host, place.port), timeout=TIMEOUT_S)
    try:
        return context.wrap_socket(plain, server_hostname=place.host)
    except BaseException:
        plain.close()
        raise


def _verdict(connection: ssl.SSLSocket, shown: Shown) -> Trouble | None:
    """With TLS 1.3 the other end judges our certificate after our part of the handshake; gRPC then only hangs up."""
    connection.settimeout(VERDICT_S)
    try:
        said = connection.recv(1)
    except TimeoutError:
        return None
    except ssl.SSLError as error:
        return _refused(error) or Trouble(Cause.OTHER, f"the gateway broke TLS off ({error.reason or 'no reason'})")
    if said:
        return None
    if shown.own_file is None:
        return Trouble(Cause.UNKNOWN, NO_IDENTITY)
    text = "the gateway hangs up on this node's certificate, which is good by the clock of this machine"
    return Trouble(Cause.REFUSED, f"{text}; compare the clocks of both", passing=True)


def _unverified(place: Place, shown: Shown, error: ssl.SSLCertVerificationError, now_unix_s: float) -> Trouble:
    if error.verify_code in OUT_OF_TIME:
        return _out_of_time(_peer_certificate(place, shown, check_time=False), now_unix_s)
    if error.verify_code in WRONG_NAME:
        names = ", ".join(_names(_peer_certificate(place, shown, check_time=True))) or "unknown"
        text = f"the gateway's certificate is not for {place.host} but for {names}"
        return Trouble(Cause.WRONG_NAME, f"{text}; use one of these, or start the gateway with --tls-san")
    text = "what answers there is not the gateway that this node joined, or that one was set up anew"
    return Trouble(Cause.WRONG_AUTHORITY, f"{text} ({error.verify_message}); if it was, join again with a new token")


def _out_of_time(certificate: dict[str, Any], now_unix_s: float) -> Trouble:
    begins, ends = (_unix_s(certificate, field) for field in ("notBefore", "notAfter"))
    if begins is not None and now_unix_s < begins:
        behind = describe_span(begins - now_unix_s)
        text = f"the clock of this machine is at least {behind} behind the gateway's; set it, or switch NTP on"
        return Trouble(Cause.CLOCK, text, passing=True)
    late = "" if ends is None else f" {describe_span(now_unix_s - ends)} ago"
    return Trouble(
        Cause.GATEWAY_EXPIRED,
        f"by the clock of this machine the gateway's certificate expired{late}; set the clock, or restart the gateway",
        passing=True,
    )


def _refused(error: ssl.SSLError) -> Trouble | None:
    """What an alert of the other end says about our certificate."""
    reason = error.reason or ""
    if "CERTIFICATE_EXPIRED" in reason:
        return Trouble(Cause.OWN_EXPIRED, own_expired_text())
    if "UNKNOWN_CA" in reason or "BAD_CERTIFICATE" in reason or "DECRYPT_ERROR" in reason:
        return Trouble(Cause.REFUSED, "the gateway does not know who signed this node's certificate; join again")
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return Trouble(Cause.UNKNOWN, NO_IDENTITY)
    if "CERTIFICATE" in reason:
        return Trouble(Cause.REFUSED, f"the gateway refuses this node's certificate ({reason.lower()}); join again")
    return None


def own_expired_text() -> str:
    """A certificate that has expired cannot renew itself."""
    return "this node's certificate has expired, so it must join again: `edgewise token create --name` on the gateway"


def without_tls(place: Place, error: ssl.SSLError) -> Trouble:
    """What a handshake that did not come about says of the other end."""
    reason = error.reason or ""
    if reason in NO_TLS or isinstance(error, CUT_OFF):
        return _plaintext(place)
    return Trouble(Cause.OTHER, f"TLS with {place.netloc} fails ({reason or 'no reason'})")


def _plaintext(place: Place) -> Trouble:
    text = f"what answers at {place.netloc} does not speak TLS; is it the right port of a gateway with tls.mode on?"
    return Trouble(Cause.PLAINTEXT, text)


def _peer_certificate(place: Place, shown: Shown, *, check_time: bool) -> dict[str, Any]:
    """The other end's certificate, its chain verified but not its name; empty where even that fails."""
    context = _context(shown)
    context.check_hostname = False
    if not check_time:
        context.verify_flags = ssl.VerifyFlags(int(context.verify_flags) | NO_CHECK_TIME)
    try:
        with _connected(place, context) as connection:
            return dict(connection.getpeercert() or {})
    except OSError:
        return {}


def _names(certificate: dict[str, Any]) -> list[str]:
    return [str(name) for kind, name in certificate.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]


def _unix_s(certificate: dict[str, Any], field: str) -> float | None:
    try:
        return float(ssl.cert_time_to_seconds(certificate[field]))
    except (KeyError, ValueError):
        return None


def describe_span(seconds: float) -> str:
    """Roughly, for people."""
    for unit, size_s in (("d", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size_s:
            return f"{seconds / size_s:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
