"""Join tokens and nodes' identities, as protobuf messages and as the client's own types."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgewise.v1 import identity_pb2 as pb
from orchestrator.client.wire import Call

IDENTITY = "/edgewise.v1.Identity"


@dataclass(frozen=True)
class TokenRecord:
    """A join token without its secret; state is good, used, expired or revoked."""

    token_id: str
    node: str
    state: str
    created_unix_s: float
    expires_unix_s: float
    used_by: str


@dataclass(frozen=True)
class NewToken:
    """A join token, its text, which nobody can make again, and where to join with it."""

    token: TokenRecord
    text: str = field(repr=False)
    url: str = ""


@dataclass(frozen=True)
class NodeRecord:
    """A node that joined, or wants to; state is pending, approved or revoked."""

    node: str
    state: str
    key_fingerprint: str
    joined_unix_s: float
    expires_unix_s: float | None


def create_token(node: str, ttl_s: float | None) -> Call[NewToken]:
    """The call that makes a token."""
    return Call(
        f"{IDENTITY}/CreateToken",
        pb.CreateTokenRequest(node=node, ttl_s=ttl_s),
        pb.CreateTokenResponse,
        lambda reply: NewToken(_token(reply.token), reply.text, reply.url),
    )


def tokens() -> Call[tuple[TokenRecord, ...]]:
    """The call that lists tokens."""
    return Call(
        f"{IDENTITY}/ListTokens",
        pb.ListTokensRequest(),
        pb.ListTokensResponse,
        lambda reply: tuple(_token(entry) for entry in reply.tokens),
    )


def revoke_token(token_id: str) -> Call[TokenRecord]:
    """The call that revokes a token."""
    request = pb.RevokeTokenRequest(token_id=token_id)
    return Call(f"{IDENTITY}/RevokeToken", request, pb.RevokeTokenResponse, lambda reply: _token(reply.token))


def identities() -> Call[tuple[NodeRecord, ...]]:
    """The call that lists nodes that joined."""
    return Call(
        f"{IDENTITY}/ListNodes",
        pb.ListNodesRequest(),
        pb.ListNodesResponse,
        lambda reply: tuple(_node(entry) for entry in reply.nodes),
    )


def approve_node(node: str) -> Call[NodeRecord]:
    """The call that lets a waiting node in."""
    request = pb.ApproveNodeRequest(node=node)
    return Call(f"{IDENTITY}/ApproveNode", request, pb.ApproveNodeResponse, lambda reply: _node(reply.node))


def revoke_node(node: str) -> Call[NodeRecord]:
    """The call that puts a node out."""
    request = pb.RevokeNodeRequest(node=node)
    return Call(f"{IDENTITY}/RevokeNode", request, pb.RevokeNodeResponse, lambda reply: _node(reply.node))


def _token(message: pb.JoinToken) -> TokenRecord:
    return TokenRecord(
        message.token_id,
        message.node,
        message.state,
        message.created_unix_s,
        message.expires_unix_s,
        message.used_by,
    )


def _node(message: pb.NodeIdentity) -> NodeRecord:
    return NodeRecord(
        message.node,
        message.state,
        message.key_fingerprint,
        message.joined_unix_s,
        message.expires_unix_s if message.HasField("expires_unix_s") else None,
    )
