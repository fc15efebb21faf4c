"""The one line that makes a node of a machine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import structlog

from orchestrator.config import GatewayConfig, is_loopback, split_address
from orchestrator.identity.addresses import reachable_host
from orchestrator.identity.tokens import DEFAULT_TTL_S

if TYPE_CHECKING:
    from orchestrator.identity.opening import Identity

log = structlog.get_logger("identity")


def tell_how_to_join(identity: Identity, config: GatewayConfig) -> None:
    """Print the line on stdout; its token is good once, for a quarter of an hour, and does not go to the log."""
    _, text = identity.registrar.create_token("", DEFAULT_TTL_S)
    sys.stdout.write(f"edgewise node join {join_url(config)} --token {text}\n")
    sys.stdout.flush()
    if is_loopback(config.http_listen) and not is_loopback(config.nodes_address):
        log.warning("join.local_only", why="http_listen is a loopback address", do="--http-listen 0.0.0.0:8420")


def join_url(config: GatewayConfig) -> str:
    """Where nodes join."""
    host, port = reachable_host(config.tls.san, config.http_listen), split_address(config.http_listen)[1]
    return f"https://{f'[{host}]' if ':' in host else host}:{port}"
