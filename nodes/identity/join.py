"""Joining a gateway: check whom we talk to, only then show the token, and come back with a certificate."""

from __future__ import annotations

import hmac
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nodes.identity import folder as kept
from nodes.identity import keys
from nodes.identity.diagnosis import Shown, describe_span, diagnose, without_tls
from nodes.identity.errors import IdentityProblem
from nodes.identity.https import Place, Reply, ask, unverified, verified
from nodes.identity.token import JoinToken

# Clocks may differ by so much before it is worth a word.
SKEW_S = 300.0
POLL_S = 2.0
# Longer than a token lives; whoever approves has had the time.
PATIENCE_S = 3600.0
OK, PENDING, WAIT = 200, 202, 429
RETRY_S = 30.0


@dataclass(frozen=True)
class Joining:
    """One attempt.

    Attributes:
        folder: Where the identity will be.
        say: Tells the operator something.
        clock_unix_s: Wall time.
        sleep: Waits for so many seconds.
    """

    place: Place
    token: JoinToken
    name: str
    folder: Path
    say: Callable[[str], None]
    clock_unix_s: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    def run(self) -> kept.NodeIdentity:
        """Join and keep the identity.

        Raises:
            IdentityProblem: Wrong gateway, wrong token, wrong clock or a name that is taken.
            NoGateway: Nobody answers.
        """
        authority_pem = self._authority()
        key_pem = kept.pending_key(self.folder, keys.new_key())
        approved = self._certificate(authority_pem, key_pem).json()
        host, port = str(approved.get("host") or self.place.host), approved.get("port")
        certificate_pem = str(approved.get("certificate", "")).encode()
        if not isinstance(port, int) or not _good(certificate_pem, key_pem):
            raise IdentityProblem("the gateway's answer holds no certificate for this node; compare versions")
        gateway = Place(host, port).netloc
        identity = kept.NodeIdentity(self.name, gateway, authority_pem, certificate_pem, key_pem)
        kept.save(self.folder, identity)
        return identity

    def _authority(self) -> bytes:
        """The authority's certificate, which must be the one that the token names. Nothing secret was sent so far."""
        try:
            reply = ask(self.place, "/cacerts", context=unverified())
        except ssl.SSLError as error:
            raise IdentityProblem(without_tls(self.place, error).text) from error
        self._compare_clocks(reply.date_unix_s)
        try:
            found = keys.fingerprint_of_certificate(reply.body)
        except ValueError:
            detail = reply.json().get("detail") or "is it a gateway?"
            raise IdentityProblem(f"{self.place.netloc} tells no certificate authority: {detail}") from None
        if not hmac.compare_digest(found, self.token.authority):
            raise IdentityProblem(
                "this gateway is not the one that the token is for (its authority has another SHA-256), so the token"
                " was not sent; copy the line anew from the right gateway, or look for somebody in between"
            )
        return reply.body

    def _compare_clocks(self, date_unix_s: float | None) -> None:
        offset_s = 0.0 if date_unix_s is None else date_unix_s - self.clock_unix_s()
        if abs(offset_s) > SKEW_S:
            which = "behind" if offset_s > 0 else "ahead of"
            self.say(f"the clock of this machine is {describe_span(abs(offset_s))} {which} the gateway's")

    def _certificate(self, authority_pem: bytes, key_pem: bytes) -> Reply:
        """Ask until there is an answer; while an operator has to approve, again and again with the same key."""
        body = {
            "name": self.name,
            "token": self.token.secret,
            "csr": keys.request_for(self.name, key_pem).decode(),
        }
        until_s = time.monotonic() + PATIENCE_S
        told = False
        while time.monotonic() < until_s:
            reply = self._post(authority_pem, body)
            if reply.status == OK:
                return reply
            if reply.status == WAIT:
                self.say(f"the gateway wants a pause of {RETRY_S:g} s after failures")
                self.sleep(RETRY_S)
                continue
            if reply.status != PENDING:
                raise IdentityProblem(_refusal(reply))
            if not told:
                told = True
                mark = keys.fingerprint_of_key(key_pem)
                self.say(f"waiting for `edgewise node approve {self.name}` on the gateway; key {mark}")
            self.sleep(POLL_S)
        raise IdentityProblem("nobody approved this node; ask the operator, then run the same line again")

    def _post(self, authority_pem: bytes, body: dict[str, str]) -> Reply:
        try:
            return ask(self.place, "/v1/nodes/join", context=verified(authority_pem), body=body)
        except ssl.SSLError as error:
            trouble = diagnose(self.place, Shown(authority_pem), clock_unix_s=self.clock_unix_s)
            text = trouble.text if trouble else f"TLS with the gateway fails ({error.reason or 'no reason'})"
            raise IdentityProblem(text) from error


def _good(certificate_pem: bytes, key_pem: bytes) -> bool:
    try:
        return keys.belong_together(certificate_pem, key_pem)
    except ValueError:
        return False


def _refusal(reply: Reply) -> str:
    told = reply.json()
    reason = str(told.get("code", f"status {reply.status}")).upper()
    return f"the gateway refuses to let this node join ({reason}): {_printable(str(told.get('detail', 'no reason')))}"


def _printable(text: str) -> str:
    """Text of a peer goes to terminals: no control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:300])
