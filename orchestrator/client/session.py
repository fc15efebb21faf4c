"""What the blocking and the asynchronous client share: address, deadline, channel options, task inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import grpc

from orchestrator.client import tls
from orchestrator.client.errors import FailedCall, GatewayUnreachable, translate
from orchestrator.client.types import FleetStatus, Generated, GenerationParameters, TensorSpec, TextDelta
from orchestrator.errors import EdgewiseError
from orchestrator.types import Array

DEFAULT_TARGET = "127.0.0.1:8421"
DEFAULT_TIMEOUT_S = 10.0
DEFAULT_PARAMETERS = GenerationParameters(max_tokens=256)
# Without ping_timeout_ms a gateway that is stopped while its kernel acknowledges is noticed after 62 s.
CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 1000),
    ("grpc.http2.ping_timeout_ms", 1000),
    ("grpc.max_send_message_length", 8 << 20),
    ("grpc.max_receive_message_length", 8 << 20),
)

Inputs = Array | Mapping[str, Array]


class Session:
    """What both clients keep: the address, the deadline, the key, whom they trust, the inputs of tasks seen so far."""

    def __init__(
        self, target: str, timeout_s: float, key: str | None = None, ca_file: Path | str | None = None
    ) -> None:
        self.target = target
        self.authority_pem = None if ca_file is None else tls.read_authority(ca_file)
        self._asked_tls = False
        self.timeout_s = timeout_s
        self.metadata = (("authorization", f"Bearer {key}"),) if key else ()
        self.specs: dict[str, TensorSpec] = {}

    def deadline_s(self, timeout_s: float | None) -> float:
        """The deadline of one call."""
        return self.timeout_s if timeout_s is None else timeout_s

    def remember(self, fleet: FleetStatus) -> None:
        """Keep the inputs of all tasks, so that bare arrays can be named."""
        self.specs.update({entry.task: entry.input for entry in fleet.tasks})

    def failure(self, error: grpc.RpcError, timeout_s: float | None) -> EdgewiseError:
        """Our own error for a failed call. Blocks for a handshake the first time that nobody seems to be there."""
        failed = cast("FailedCall", error)
        found = translate(failed, target=self.target, timeout_s=self.deadline_s(timeout_s))
        if not isinstance(found, GatewayUnreachable) or self._asked_tls:
            return found
        self._asked_tls = True
        return tls.why(self.target, self.authority_pem) or found


def collect(event: TextDelta | Generated, text: list[str]) -> TextDelta | Generated:
    """Gather the pieces in `text`, and give the last event all of them."""
    if isinstance(event, Generated):
        return replace(event, text="".join(text))
    text.append(event.text)
    return event
