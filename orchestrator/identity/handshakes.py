"""Counts handshakes of TLS that failed, by port and reason.

HTTPS handshakes are Python's, and their errors are seen as they are raised. Those of gRPC happen inside gRPC, which
tells nobody but standard error; so what is written there by anything but Python is read on its way.
"""

from __future__ import annotations

import os
import re
import ssl
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any

GRPC, HTTPS = "grpc", "https"
OTHER = "other"
# What OpenSSL and BoringSSL write, and what it is; the first that is found counts.
REASONS = {
    "certificate has expired": "expired",
    "not yet valid": "not_yet_valid",
    "unable to get local issuer": "unknown_authority",
    "self-signed": "unknown_authority",
    "certificate signature failure": "unknown_authority",
    "unsupported certificate purpose": "wrong_purpose",
    "unsuitable certificate purpose": "wrong_purpose",
    "CERTIFICATE_VERIFY_FAILED": "certificate_invalid",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no_certificate",
    "UNSUPPORTED_PROTOCOL": "old_version",
    "NO_SHARED_CIPHER": "no_shared_cipher",
    "HTTP_REQUEST": "plaintext",
    "WRONG_VERSION_NUMBER": "plaintext",
    # The other end's own verdict on this gateway's certificate.
    "ALERT_UNKNOWN_CA": "refused_by_peer",
    "ALERT_BAD_CERTIFICATE": "refused_by_peer",
    "ALERT_CERTIFICATE": "refused_by_peer",
}
FAILED = re.compile(rb"ssl_transport_security\S* Handshake failed with error (.*)")
# A longer line is no line.
MAX_LINE_BYTES = 65_536

Counts = defaultdict[tuple[str, str], int]


def reason_of(text: str) -> str:
    """A label for what a TLS library said; one of few, whatever strangers send."""
    return next((reason for said, reason in REASONS.items() if said in text), OTHER)


class Handshakes:
    """The counts. Each port is counted by one thread."""

    def __init__(self) -> None:
        self.counts: Counts = defaultdict(int)

    def line(self, line: bytes) -> None:
        """A line that gRPC wrote."""
        if (found := FAILED.search(line)) is not None:
            self.counts[GRPC, reason_of(found[1].decode(errors="replace"))] += 1

    def count_https(self, context: ssl.SSLContext) -> None:
        """Count those of a server that is made with this context."""

        class Counted(ssl.SSLObject):
            def do_handshake(_self) -> None:  # noqa: N805 (the counts are this method's other self)
                try:
                    super().do_handshake()
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    raise
                except ssl.SSLError as error:
                    self.counts[HTTPS, reason_of(str(error))] += 1
                    raise

        context.sslobject_class = Counted

    @contextmanager
    def hear_grpc(self) -> Generator[None]:
        """Read what is written to standard error below Python, and pass it on, until the block ends.

        Python's own lines go where they went, so that the last words of a process that dies are not lost.
        """
        with _own_stderr() as original:
            out, into = os.pipe()
            os.dup2(into, 2)
            os.close(into)
            reader = threading.Thread(target=_pass_on, args=(out, original, self.line), name="stderr", daemon=True)
            reader.start()
            try:
                yield
            finally:
                # Takes the last handle of the pipe that this process has; others may hold theirs for longer.
                os.dup2(original, 2)
                reader.join(0.2)


@contextmanager
def _own_stderr() -> Generator[int]:
    """Have `sys.stderr` write past handle 2, to which it wrote before; yields that way's handle."""
    before = sys.stderr
    handle = os.dup(2)
    with suppress(Exception):
        before.flush()
    mine: Any = open(handle, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = mine
    try:
        yield handle
    finally:
        sys.stderr = before
        mine.flush()


def _pass_on(source: int, target: int, hear: Callable[[bytes], None]) -> None:
    """Line by line, each in one piece, until nobody can write any more: Python writes to the same place.

    Goes on reading whatever happens: writers would wait for ever.
    """
    rest = b""
    while chunk := os.read(source, MAX_LINE_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            _write(target, line + b"\n")
            hear(line)
        if len(rest) > MAX_LINE_BYTES:
            _write(target, rest)
            rest = b""
    _write(target, rest)
    os.close(source)


def _write(target: int, data: bytes) -> None:
    with suppress(OSError):
        os.write(target, data)
