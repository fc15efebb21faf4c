"""What stands at the clients' port where nodes have one of their own."""

from __future__ import annotations

from typing import Any

from orchestrator.fleet.fleet import Refusal
from orchestrator.fleet.session import NodeSession


class Closed:
    """Stands at the clients' port where nodes have one of their own."""

    async def refusal(self, context: Any, claimed: str) -> Refusal | None:
        """No node speaks here."""
        del context, claimed
        text = "This gateway takes nodes with certificates only: `edgewise token create` there, then join with it."
        return Refusal("IDENTITY_REQUIRED", text, retryable=False)

    def watch(self, context: Any, session: NodeSession) -> None:
        """Never called: nobody is let in."""
