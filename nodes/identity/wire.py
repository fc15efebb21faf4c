"""The renewal of a certificate as a call: the only file of a node's identity that knows generated classes."""

from __future__ import annotations

import grpc.aio

from edgewise.v1 import identity_pb2 as pb
from edgewise.v1 import identity_pb2_grpc

TIMEOUT_S = 10.0


async def renew(channel: grpc.aio.Channel, csr_pem: bytes) -> bytes:
    """A certificate for this request, by the right of the connection's own.

    Raises:
        RenewalFailed: The gateway is away or refuses.
    """
    stub: identity_pb2_grpc.IdentityAsyncStub = identity_pb2_grpc.IdentityStub(channel)
    try:
        reply = await stub.Renew(pb.RenewRequest(csr=csr_pem), timeout=TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        raise RenewalFailed(error.code().name) from error
    return reply.certificate


class RenewalFailed(Exception):
    """No new certificate this time; `code` is the gRPC status by name."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code
