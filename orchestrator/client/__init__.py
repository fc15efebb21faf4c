"""Clients of a gateway, one that blocks and one for asyncio, with the same calls and the same budgets.

::

    from orchestrator.client import Budget, Client

    with Client("127.0.0.1:8421") as client:
        answer = client.infer(image, budget=Budget(max_energy_j=5e-6, max_latency_ms=20))
        print(answer.label, answer.energy.energy_j)

Every call has a deadline, and every failure is an `orchestrator.errors.EdgewiseError`: the caller never meets
an exception of grpc. A call that failed is not tried again here: the gateway retries where that is safe.
"""

from orchestrator.client.asynchronous import AsyncClient
from orchestrator.client.blocking import Client
from orchestrator.client.types import (
    Answer,
    Budget,
    FusionChoice,
    Generated,
    GenerationParameters,
    LongRun,
    Message,
    OnInfeasible,
    TextDelta,
)

__all__ = [
    "Answer",
    "AsyncClient",
    "Budget",
    "Client",
    "FusionChoice",
    "Generated",
    "GenerationParameters",
    "LongRun",
    "Message",
    "OnInfeasible",
    "TextDelta",
]
