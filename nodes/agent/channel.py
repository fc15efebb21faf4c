"""The channel to the gateway: all its arguments, in one place.

Without `ping_timeout_ms` a stopped (not dead) peer is noticed after a minute: the kernel still acknowledges.
The gateway's server needs `grpc.http2.min_ping_interval_without_data_ms` below the keepalive time, else it
answers these pings with "too many pings".
"""

from __future__ import annotations

import grpc.aio

KEEPALIVE_MS = 2000
KEEPALIVE_TIMEOUT_MS = 1000
MAX_MESSAGE_BYTES = 8 * 1024 * 1024

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.max_pings_without_data", 0),
    # Bandwidth probes would add a ping to almost every small message.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # The agent has its own back-off; the channel must not add one of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Two agents of one process (tests) must not share a connection, or one's end would be the other's.
    ("grpc.use_local_subchannel_pool", 1),
)


def open_channel(target: str) -> grpc.aio.Channel:
    """A channel to HOST:PORT. Connects when first used."""
    return grpc.aio.insecure_channel(target, options=OPTIONS)
