"""Failed handshakes are counted by what was wrong, and nothing that is written to standard error is lost by it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from orchestrator.identity.handshakes import GRPC, OTHER, REASONS, Handshakes, reason_of

LINE = b"I1128 07:00:11.1 24930 ssl_transport_security.cc:2563] Handshake failed with error SSL_ERROR_SSL: error:1: "


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: certificate has expired", "expired"),
        ("OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate", "unknown_authority"),
        ("OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: certificate revoked", "certificate_invalid"),
        ("OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE: Invalid certificate", "no_certificate"),
        ("[SSL: UNSUPPORTED_PROTOCOL] unsupported protocol (_ssl.c:1006)", "old_version"),
        ("[SSL: HTTP_REQUEST] http request (_ssl.c:1006)", "plaintext"),
        ("\x1b[31m anything", OTHER),
    ],
)
def test_what_was_said_is_one_of_few_reasons(said: str, reason: str) -> None:
    assert reason_of(said) == reason
    assert reason in {*REASONS.values(), OTHER}


def test_only_lines_of_grpc_about_handshakes_count() -> None:
    found = Handshakes()
    for line in (LINE + b"HTTP_REQUEST: x", b"request done", b"Handshake failed with error HTTP_REQUEST"):
        found.line(line)
    assert found.counts == {(GRPC, "plaintext"): 1}


CHILD = """
import os, sys
from orchestrator.identity.handshakes import Handshakes
found = Handshakes()
with found.hear_grpc():
    os.write(2, LINE[:40]); os.write(2, LINE[40:] + b"NO_SHARED_CIPHER\\n" + b"x" * 3000 + b"\\n")
    print("python's own", file=sys.stderr)
    if "die" in sys.argv:
        print("last words", file=sys.stderr)
        os.abort()
os.write(2, b"after\\n")
print(dict(found.counts))
"""


def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    code = CHILD.replace("LINE", repr(LINE))
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, timeout=60, check=False)


def test_what_is_written_below_python_is_heard_and_passed_on() -> None:
    done = run()
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout == b"{('grpc', 'no_shared_cipher'): 1}\n"
    assert {LINE + b"NO_SHARED_CIPHER", b"x" * 3000, b"python's own", b"after"} <= set(done.stderr.splitlines())


def test_the_last_words_of_a_process_that_dies_are_not_lost() -> None:
    done = run("die")
    assert done.returncode != 0
    assert b"last words" in done.stderr
