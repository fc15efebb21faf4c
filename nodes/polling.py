"""How gRPC waits for its sockets in the agent's process.

gRPC's event engine reads sockets in threads of its own and wakes the thread of the completion queue with what came;
asyncio is woken by that one. The older way, still in every release, reads in the completion queue's thread: one
wake-up less for every message.
Source: `make bench NAME=gateway` with and without (`GRPC_EXPERIMENTS=` switches it off), deploy/docs/measuring.md.
"""

from __future__ import annotations

import os

VARIABLE = "GRPC_EXPERIMENTS"
WITHOUT_EVENT_ENGINE = "-event_engine_client,-event_engine_listener"
# Our children become other programs at once; gRPC would remark on every fork that it cannot survive it.
FORK_SUPPORT, NONE = "GRPC_ENABLE_FORK_SUPPORT", "0"


def poll_directly() -> None:
    """Choose the shorter way; what the operator set stays. Only works before the process first imports grpc."""
    os.environ.setdefault(VARIABLE, WITHOUT_EVENT_ENGINE)
    os.environ.setdefault(FORK_SUPPORT, NONE)
