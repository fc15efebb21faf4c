"""What every `Placement` must do; run against Ray itself by the campaign, and against a fake of it in `make test`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nodes.ray.contract import Placed, Placement
from nodes.ray.errors import AgentNotPlaced, SpecRefused
from nodes.ray.spec import AgentSpec, order_for


def check(placement: Placement, wait: Callable[[Callable[[], bool]], None]) -> None:
    """Place, find, drain and remove an agent.

    Args:
        placement: Without agents.
        wait: Waits until something holds.
    """
    agent = AgentSpec(name="conform-1", num_cpus=0)
    order = order_for(agent, "127.0.0.1:9", "1")

    def found() -> Placed | None:
        return next((one for one in placement.agents(timeout_s=5.0) if one.name == "conform-1"), None)

    def reports() -> bool:
        one = found()
        return one is not None and one.report is not None

    assert found() is None
    placement.place(agent, order)
    with pytest.raises(SpecRefused):
        placement.place(agent, order)
    wait(reports)
    one = found()
    assert one is not None
    assert one.report is not None
    assert (one.actor, one.restarts, one.report.revision) == ("ALIVE", 0, order.revision)
    assert one.ray_node
    assert placement.drain("conform-1", within_s=10.0)
    placement.remove("conform-1")
    placement.remove("conform-1")
    assert found() is None
    with pytest.raises(AgentNotPlaced):
        placement.drain("conform-1", within_s=1.0)
    with pytest.raises(AgentNotPlaced):
        placement.admit("conform-1", url="u", token="t")
