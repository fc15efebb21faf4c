"""The gateway's gRPC ports: one for clients and, with TLS, another one for nodes, who show certificates there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from edgewise.v1 import fleet_pb2_grpc, identity_pb2_grpc
from orchestrator.config import GatewayConfig
from orchestrator.gateway.channel import server_options
from orchestrator.gateway.guard import GuardedServer
from orchestrator.gateway.join import Joiner
from orchestrator.gateway.policy import NodesDoorman
from orchestrator.gateway.servicers import FleetServicer
from orchestrator.identity.servicers import IdentityServicer

if TYPE_CHECKING:
    from orchestrator.identity.opening import Identity


class CannotListen(Exception):
    """An address is taken or not ours."""


def bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """Have a server listen; returns the port.

    Raises:
        CannotListen: The address cannot be had.
    """
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise CannotListen(f"cannot listen on {address}: another process has it, or it is not ours") from error


def nodes_server(config: GatewayConfig, identity: Identity, joiner: Joiner) -> grpc.aio.Server:
    """A server for nodes that listens already and is not started yet.

    Raises:
        CannotListen: The address cannot be had.
    """
    server = grpc.aio.server(options=server_options(config.admission.max_message_bytes))
    guarded: Any = GuardedServer(
        server, max_deadline_s=config.admission.max_deadline_s, admit=NodesDoorman().admit_call
    )
    fleet_pb2_grpc.add_FleetServicer_to_server(FleetServicer(joiner, identity), guarded)
    identity_pb2_grpc.add_IdentityServicer_to_server(IdentityServicer(identity), guarded)
    identity.listens(config, bind(server, config.nodes_address, identity.for_nodes()))
    return server
