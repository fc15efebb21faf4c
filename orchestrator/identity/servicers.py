"""The service of tokens and identities: thin translations between messages and the registrar."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from edgewise.v1 import identity_pb2 as pb
from edgewise.v1 import identity_pb2_grpc
from orchestrator.errors import RequestError
from orchestrator.identity.errors import IdentityError, tls_off
from orchestrator.identity.records import Member, Token
from orchestrator.identity.tokens import DEFAULT_TTL_S, MAX_TTL_S
from orchestrator.wire import check_name

if TYPE_CHECKING:
    from orchestrator.identity.opening import Identity
    from orchestrator.identity.registrar import Registrar

MIN_TTL_S = 1.0


class IdentityServicer(identity_pb2_grpc.IdentityServicer):
    """What operators ask of the registrar, and what nodes do.

    Args:
        identity: None where the gateway runs without TLS: all methods then say so.
        url: Where nodes join.
    """

    def __init__(self, identity: Identity | None, url: str = "") -> None:
        self._identity = identity
        self._url = url

    @property
    def _opened(self) -> Identity:
        if self._identity is None:
            raise tls_off()
        return self._identity

    @property
    def _registrar(self) -> Registrar:
        return self._opened.registrar

    async def CreateToken(self, request: pb.CreateTokenRequest, context: Any) -> pb.CreateTokenResponse:
        """See identity.proto."""
        registrar = self._registrar
        node = check_name(request.node, "node") if request.node else ""
        ttl_s = request.ttl_s if request.HasField("ttl_s") else DEFAULT_TTL_S
        # Written so that NaN fails the comparison.
        if not MIN_TTL_S <= ttl_s <= MAX_TTL_S:
            text = f"ttl_s must be between {MIN_TTL_S:g} and {MAX_TTL_S:g}."
            raise RequestError("FIELD_OUT_OF_RANGE", text, field="ttl_s")
        token, text = await self._opened.act(lambda: registrar.create_token(node, ttl_s))
        return pb.CreateTokenResponse(token=encode_token(token), text=text, url=self._url)

    async def ListTokens(self, request: pb.ListTokensRequest, context: Any) -> pb.ListTokensResponse:
        """See identity.proto."""
        return pb.ListTokensResponse(tokens=[encode_token(token) for token in self._registrar.tokens()])

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Any) -> pb.RevokeTokenResponse:
        """See identity.proto."""
        registrar = self._registrar
        token = await self._opened.act(lambda: registrar.revoke_token(request.token_id))
        return pb.RevokeTokenResponse(token=encode_token(token))

    async def ListNodes(self, request: pb.ListNodesRequest, context: Any) -> pb.ListNodesResponse:
        """See identity.proto."""
        return pb.ListNodesResponse(nodes=[encode_member(member) for member in self._registrar.members()])

    async def ApproveNode(self, request: pb.ApproveNodeRequest, context: Any) -> pb.ApproveNodeResponse:
        """See identity.proto."""
        registrar, node = self._registrar, check_name(request.node, "node")
        member = await self._opened.act(lambda: registrar.approve(node))
        return pb.ApproveNodeResponse(node=encode_member(member))

    async def RevokeNode(self, request: pb.RevokeNodeRequest, context: Any) -> pb.RevokeNodeResponse:
        """See identity.proto."""
        registrar, node = self._registrar, check_name(request.node, "node")
        member = await self._opened.act(lambda: registrar.revoke(node))
        self._opened.sentry.look()
        return pb.RevokeNodeResponse(node=encode_member(member))

    async def Renew(self, request: pb.RenewRequest, context: Any) -> pb.RenewResponse:
        """See identity.proto."""
        registrar = self._registrar
        from orchestrator.identity.peers import peer_of

        peer = peer_of(context)
        if peer is None:
            raise IdentityError("IDENTITY_REQUIRED", "Certificates are renewed on the nodes' port, with the old one.")
        issued = await self._opened.act(lambda: registrar.renew(peer, request.csr))
        return pb.RenewResponse(certificate=issued.pem)


def encode_token(token: Token) -> pb.JoinToken:
    """The message for a token: nothing of its secret."""
    return pb.JoinToken(
        token_id=token.token_id,
        node=token.node,
        state=token.state(time.time()),
        created_unix_s=token.created_unix_s,
        expires_unix_s=token.expires_unix_s,
        used_by=token.used_by,
    )


def encode_member(member: Member) -> pb.NodeIdentity:
    """The message for a node."""
    return pb.NodeIdentity(
        node=member.name,
        state=member.state.value,
        key_fingerprint=member.key,
        joined_unix_s=member.joined_unix_s,
        expires_unix_s=max(member.serials.values(), default=None),
    )
