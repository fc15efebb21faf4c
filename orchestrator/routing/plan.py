"""The plan in force for one task: a certified set of active arms, a quality model, and routes bound to arms.

A plan is immutable; the table inside is rebound when nodes come and go. The last certified plan stays in force until
another one is certified.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from optimizer.deciding.choose import Price
from optimizer.deciding.model import TaskModel
from optimizer.heads.given import MixedHeads
from optimizer.heads.texts import TextHeads
from orchestrator.fleet.arms import ArmBoard, ArmState
from orchestrator.routing.binding import bind, footing
from orchestrator.routing.combined import CombinedModel
from orchestrator.routing.model import QualityModel
from orchestrator.routing.table import RouteTable
from orchestrator.types import CertificateRecord

NO_CERTIFICATE = CertificateRecord("none", 0.0, 0)


@dataclass(frozen=True)
class Plan:
    """What routing follows for one task.

    Args:
        plan_id: For logs and `why`.
        model: Quality of the routes.
        active: Names of the arms that may run; None lets every arm run.
        certificate: How good the active set is proven to be.
        gate: SHA-256 of the file that heads come from; "" where all were learned or announced here.
        needed: Nodes that the certified set runs on: none of them may be put to sleep; None where none is certified.
    """

    plan_id: str
    model: QualityModel
    active: frozenset[str] | None
    certificate: CertificateRecord
    gate: str = ""
    needed: frozenset[str] | None = None

    @property
    def best_single(self) -> str | None:
        """The cheapest expert within a tolerance of the most accurate; None where nothing was learned."""
        model = self.model.model if isinstance(self.model, CombinedModel) else self.model
        return model.experts[model.best_single] if isinstance(model, TaskModel) else None

    @cached_property
    def answers(self) -> tuple[TextHeads, dict[str, int]] | None:
        """What was learned here of what answers say of themselves, with the row of each expert; None where nothing."""
        model = self.model.model if isinstance(self.model, CombinedModel) else self.model
        heads = model.heads if isinstance(model, TaskModel) else None
        if isinstance(heads, MixedHeads):
            heads = heads.learned
        if not isinstance(model, TaskModel) or not isinstance(heads, TextHeads):
            return None
        return heads, {expert: row for row, expert in enumerate(model.experts)}

    def table(self, arms: list[ArmState], board: ArmBoard, before: RouteTable | None = None) -> RouteTable:
        """The plan's routes on these arms, those outside the active set left out.

        An arm that joined since waits for the next plan. Where none of the active arms is left, all may run: an answer
        from an unplanned arm is better than none.

        Args:
            arms: Of the plan's task.
            board: Where they are.
            before: The table so far; returned where a new one would be the same, as when the arms that came wait.
        """
        active = self.active
        allowed = arms if active is None else [state for state in arms if state.arm.name in active]
        stands = footing(self.model.routes, allowed or arms, board)
        if before is not None and before.footing == stands:
            return before
        return RouteTable(bind(self.model.routes, allowed or arms, board), board, stands)

    def price(self, profile: str, table: RouteTable) -> Price:
        """The profile's price; a pinned route becomes the first of its bindings (fewest joules)."""
        price, pinned = self._prices[profile]
        return price if pinned is None else price._replace(pinned=table.first_of(pinned))

    @cached_property
    def _prices(self) -> dict[str, tuple[Price, int | None]]:
        """The price of each profile, and the model route that is pinned with it."""
        return {name: (Price(price.price_per_j), price.pinned) for name, price in self.model.prices.items()}
