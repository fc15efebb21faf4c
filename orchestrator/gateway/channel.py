"""Arguments of the gateway's gRPC server, all in one place because several only work together.

A partition is noticed by keepalive; a stopped peer only with the ping timeout as well (without it after 62 s); and
without ``min_ping_interval_without_data_ms`` the peer's own pings kill healthy long calls. Both ends use 2 s / 1 s.
"""

from __future__ import annotations

KEEPALIVE_MS = 2000
KEEPALIVE_TIMEOUT_MS = 1000
MAX_METADATA_BYTES = 16 * 1024


def server_options(max_message_bytes: int) -> list[tuple[str, int]]:
    """Options for `grpc.aio.server`."""
    return [
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.so_reuseport", 0),
        # Bandwidth probes would add a ping to almost every small message.
        ("grpc.http2.bdp_probe", 0),
    ]
