"""Takes nodes in by their tokens, renews and revokes their certificates. Everything is on disk before it is said.

Methods run one at a time, and where several gateways share the book, a change locks it (`shared_book`): that is what
makes a token good for one use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cryptography import x509

from orchestrator.identity.authority import Authority, key_fingerprint
from orchestrator.identity.book import Book
from orchestrator.identity.errors import (
    IdentityError,
    node_exists,
    node_unknown,
    revoked,
    token_expired,
    token_invalid,
)
from orchestrator.identity.records import Issued, Member, MemberState, Objection, Peer, Token
from orchestrator.identity.tokens import authenticate, mint


class Registrar:
    """Who may have a certificate.

    Args:
        authority: Signs.
        book: What is known.
        manual: Whether an operator must approve each node.
        clock_unix_s: Wall time.
        random: Makes so many random bytes.
    """

    def __init__(
        self,
        authority: Authority,
        book: Book,
        *,
        manual: bool,
        clock_unix_s: Callable[[], float],
        random: Callable[[int], bytes],
    ) -> None:
        self.authority = authority
        self._book = book
        self._manual = manual
        self._now = clock_unix_s
        self._random = random

    @property
    def shared(self) -> bool:
        """Whether other gateways change the book, too; changes then wait for a database."""
        return self._book.shared

    def refresh(self) -> None:
        """Read what other gateways have changed."""
        self._book.refresh()

    # ---- tokens

    def create_token(self, node: str, ttl_s: float) -> tuple[Token, str]:
        """A token for one join, and its text, which cannot be had again."""
        fingerprint = self.authority.fingerprint
        token, text = mint(fingerprint, node=node, ttl_s=ttl_s, now_unix_s=self._now(), random=self._random)
        with self._book.change(self._now()):
            self._book.tokens[token.token_id] = token
        return token, text

    def tokens(self) -> list[Token]:
        """All that are not long over, the oldest first."""
        return sorted(self._book.tokens.values(), key=lambda token: token.created_unix_s)

    def revoke_token(self, token_id: str) -> Token:
        """A token that nobody joins with any more.

        Raises:
            IdentityError: TOKEN_NOT_FOUND.
        """
        with self._book.change(self._now()):
            token = self._book.tokens.get(token_id)
            if token is None:
                raise IdentityError("TOKEN_NOT_FOUND", "There is no token of this id; see `edgewise token list`.")
            token = self._book.tokens[token_id] = replace(token, revoked=True)
        return token

    # ---- nodes

    def join(self, node: str, text: str, csr: bytes) -> Issued | None:
        """Take a node in; None while it waits for an operator's approval, and asks again with the same key.

        Raises:
            IdentityError: CREDENTIAL_INVALID, CREDENTIAL_EXPIRED, INPUT_INVALID, NODE_EXISTS or IDENTITY_REVOKED.
        """
        self._book.refresh()
        token = authenticate(text, self._book.tokens)
        request = self.authority.read_request(csr, node)
        key = key_fingerprint(request)
        if token.used_by and self._waiting(token, node, key).state is MemberState.PENDING:
            return None
        with self._book.change(self._now()):
            # Another gateway may have taken it meanwhile.
            token = authenticate(text, self._book.tokens)
            member = self._waiting(token, node, key) if token.used_by else self._admit(token, node, key)
            return None if member.state is MemberState.PENDING else self._issue(member, request)

    def _waiting(self, token: Token, node: str, key: str) -> Member:
        """Whoever has used this token and has no certificate yet."""
        member = self._book.members.get(node)
        if (token.used_by, token.used_key) != (node, key) or member is None or member.key != key or member.serials:
            raise token_invalid()
        if member.state is MemberState.REVOKED:
            raise revoked()
        return member

    def _admit(self, token: Token, node: str, key: str) -> Member:
        if token.revoked or (token.node and token.node != node):
            raise token_invalid()
        if token.state(self._now()) == "expired":
            raise token_expired()
        if node in self._book.members and not token.node:
            raise node_exists()
        state = MemberState.PENDING if self._manual else MemberState.APPROVED
        # Whatever certificates the name had before are good no longer.
        member = self._book.members[node] = Member(node, state, key, self._now())
        self._book.tokens[token.token_id] = replace(token, used_by=node, used_key=key)
        return member

    def _issue(self, member: Member, request: x509.CertificateSigningRequest) -> Issued:
        issued = self.authority.issue_node(request, member.name)
        now_unix_s = self._now()
        good = {serial: until for serial, until in member.serials.items() if until > now_unix_s}
        serials = {**good, issued.serial: issued.expires_unix_s}
        self._book.members[member.name] = replace(member, key=key_fingerprint(request), serials=serials)
        return issued

    def members(self) -> list[Member]:
        """All nodes that joined or want to, by name."""
        return sorted(self._book.members.values(), key=lambda member: member.name)

    def approve(self, node: str) -> Member:
        """Let a node that waits have its certificate.

        Raises:
            IdentityError: NODE_NOT_FOUND or IDENTITY_REVOKED.
        """
        with self._book.change(self._now()):
            member = self._member(node)
            if member.state is MemberState.REVOKED:
                raise revoked()
            member = self._book.members[node] = replace(member, state=MemberState.APPROVED)
        return member

    def revoke(self, node: str) -> Member:
        """Put a node out: none of its certificates is accepted any more.

        Raises:
            IdentityError: NODE_NOT_FOUND.
        """
        with self._book.change(self._now()):
            member = replace(self._member(node), state=MemberState.REVOKED, serials={})
            self._book.members[node] = member
        return member

    def _member(self, node: str) -> Member:
        member = self._book.members.get(node)
        if member is None:
            raise node_unknown()
        return member

    # ---- certificates in use

    def objection(self, peer: Peer) -> Objection | None:
        """Why this certificate is not accepted, though our authority signed it; None where it is. Cost: 1 µs."""
        member = self._book.members.get(peer.name)
        if member is None:
            return Objection("IDENTITY_UNKNOWN", "This gateway does not know the node; join again with a new token.")
        if member.state is MemberState.REVOKED:
            return Objection("IDENTITY_REVOKED", revoked().message)
        if peer.serial not in member.serials:
            return Objection("IDENTITY_REPLACED", "The node has joined anew since, so this certificate is void.")
        if self._now() >= peer.expires_unix_s:
            return Objection("IDENTITY_EXPIRED", "The node's certificate has expired.", retryable=True)
        return None

    def renew(self, peer: Peer, csr: bytes) -> Issued:
        """A further certificate for a node that still has a good one.

        Raises:
            IdentityError: IDENTITY_REVOKED or INPUT_INVALID.
        """
        request = self.authority.read_request(csr, peer.name)
        with self._book.change(self._now()):
            objection = self.objection(peer)
            if objection is not None:
                raise IdentityError("IDENTITY_REVOKED", objection.message)
            return self._issue(self._member(peer.name), request)
