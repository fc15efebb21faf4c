"""Joules that come after the answer: final figures of late sensors, and idle power."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgewise.v1 import accounts_pb2, accounts_pb2_grpc, common_pb2, fleet_pb2, gateway_pb2
from orchestrator.config import Ledger, Promise
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import probabilities
from tests.fakes.live import Live, live_gateway, until
from tests.fakes.node import FakeNode
from tests.fakes.turn import Turn
from tests.orchestrator.gateway.calls import digit, infer
from tests.orchestrator.gateway.test_accounts import limit, meters

ARM = FakeArm("large", energy_j=0.1, p50_ms=1.0, p95_ms=2.0)


def joules(energy_j: float, *, preliminary: bool) -> common_pb2.Energy:
    return common_pb2.Energy(
        energy_j=energy_j,
        provenance=common_pb2.PROVENANCE_MEASURED,
        method="nvml-power",
        share="predicted" if preliminary else "weights",
        idle_j=0.02,
        preliminary=preliminary,
    )


async def answers_early(turn: Turn) -> None:
    turn.emit(
        fleet_pb2.NodeEvent(
            done=fleet_pb2.WorkDone(
                work_id=turn.work.work_id, outputs=[probabilities(7)], energy=joules(0.1, preliminary=True)
            )
        )
    )


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[tuple[Live, FakeNode]]:
    async with (
        live_gateway(tmp_path, ledger=Ledger(store="sqlite"), promise=Promise(margins=False)) as live,
        live.node(arms=[ARM], behaviour=answers_early) as node,
    ):
        yield live, node


def settle(node: FakeNode, energy_j: float) -> None:
    """The sensor has caught up: final joules of all that the node was asked."""
    works = [
        fleet_pb2.SettledWork(work_id=work.work_id, energy=joules(energy_j, preliminary=False))
        for work in node.seen.works
    ]
    node.emit(fleet_pb2.NodeEvent(settled=fleet_pb2.EnergySettled(works=works)))


async def corrected(live: Live, answer: gateway_pb2.InferResponse) -> gateway_pb2.ExplainResponse:
    await until(lambda: not live.gateway.service.finals.owed)
    request = gateway_pb2.ExplainRequest(request_id=answer.request_id)
    told: gateway_pb2.ExplainResponse = await live.stub.Explain(request, timeout=5)  # type: ignore[misc]
    return told


@pytest.mark.parametrize("final_j", [0.16, 0.04])
async def test_final_joules_are_charged_counted_and_told(shop: tuple[Live, FakeNode], final_j: float) -> None:
    live, node = shop
    await limit(live, "fleet", day_j=10.0)
    answer = await infer(live, digit())
    assert answer.energy.preliminary
    assert answer.energy.idle_j == pytest.approx(0.02)
    assert (await meters(live, "fleet"))["day_j"].spent == pytest.approx(0.1)
    settle(node, final_j)
    told = await corrected(live, answer)
    assert told.energy.energy_j == pytest.approx(final_j)
    assert told.energy.share == "weights"
    assert not told.energy.preliminary
    await live.gateway.service.till.ledger._postings.drained()
    assert (await meters(live, "fleet"))["day_j"].spent == pytest.approx(final_j)
    _, counted_j = live.gateway.service.metrics.totals()
    assert counted_j == pytest.approx(final_j)


async def test_a_report_counts_a_corrected_request_once(shop: tuple[Live, FakeNode]) -> None:
    live, node = shop
    answer = await infer(live, digit())
    settle(node, 0.3)
    await corrected(live, answer)
    books = accounts_pb2_grpc.AccountsStub(live.channel)
    live.gateway.service.till.ledger._postings.flush()
    request = accounts_pb2.GetEnergyRequest(last_s=60.0, by="task")
    shares = (await books.GetEnergy(request, timeout=5)).shares
    assert [(share.name, share.requests) for share in shares] == [("digits", 1)]
    assert shares[0].energy_j == pytest.approx(0.3)


async def test_what_is_never_corrected_keeps_its_first_figure(shop: tuple[Live, FakeNode]) -> None:
    live, _ = shop
    service = live.gateway.service
    await infer(live, digit())
    service.publish()
    assert service.metrics.totals()[1] == 0.0
    service.finals._clock = lambda: 1e12
    service.publish()
    assert service.metrics.totals()[1] == pytest.approx(0.1)
    assert service.finals.owed == 0


async def test_work_that_nobody_knows_is_passed_over(shop: tuple[Live, FakeNode]) -> None:
    live, node = shop
    works = [fleet_pb2.SettledWork(work_id=10**12, energy=joules(5.0, preliminary=False))]
    node.emit(fleet_pb2.NodeEvent(settled=fleet_pb2.EnergySettled(works=works)))
    answer = await infer(live, digit())
    assert answer.label == "7"


async def test_idle_joules_are_counted_once_across_streams(shop: tuple[Live, FakeNode]) -> None:
    live, node = shop
    metrics = live.gateway.service.metrics

    def idle_j() -> float:
        return sum(metrics._idle_j.values())

    for sum_j in (40.0, 41.0, 43.5):
        node.emit(fleet_pb2.NodeEvent(heartbeat=fleet_pb2.Heartbeat(idle_energy_j=sum_j)))
    await until(lambda: idle_j() == pytest.approx(3.5))
    node.emit(fleet_pb2.NodeEvent(heartbeat=fleet_pb2.Heartbeat(idle_energy_j=float("nan"))))
    node.emit(fleet_pb2.NodeEvent(heartbeat=fleet_pb2.Heartbeat(idle_energy_j=44.0)))
    await until(lambda: idle_j() == pytest.approx(4.0))
    assert b'state="idle"' in metrics.render()
    live.gateway.service.idle.write()
    live.gateway.service.till.ledger._postings.flush()
    books = accounts_pb2_grpc.AccountsStub(live.channel)
    request = accounts_pb2.GetEnergyRequest(last_s=60.0, by="outcome")
    shares = (await books.GetEnergy(request, timeout=5)).shares
    assert {share.name: (share.requests, round(share.energy_j, 6)) for share in shares} == {"idle": (0, 4.0)}
