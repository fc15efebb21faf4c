"""Tensor queries from client to node and back, and what happens on the way."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from edgewise.v1 import common_pb2
from orchestrator.client import AsyncClient, Budget
from orchestrator.config import Admission, Retries
from orchestrator.errors import DeadlineExceeded, RequestError
from orchestrator.fleet.shedding import Shedding
from orchestrator.routing.route import Wish
from orchestrator.types import Provenance
from tests.fakes.arms import FakeArm
from tests.fakes.behaviours import answers, fails, silent, vanishes
from tests.fakes.live import Live, live_gateway, until
from tests.orchestrator.builders import limits
from tests.orchestrator.gateway.calls import digit, infer, refusal

CHEAP, DEAR = FakeArm(energy_j=0.01), FakeArm(energy_j=0.1)
IMAGE = np.zeros((1, 8, 8), dtype=np.float32)


# Of a busy machine.
PATIENT = Budget(max_latency_ms=20_000.0)


@contextlib.asynccontextmanager
async def one_client(live: Live) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(live.address) as client:
        yield client


# ---- answers


async def test_an_answer_carries_what_it_cost_and_how_it_was_routed(live: Live) -> None:
    async with live.node(arms=[CHEAP], behaviour=answers(7, confidence=0.91, energy_j=0.012)):
        call: Any = live.stub.Infer(digit(request_id="r1"), timeout=5)
        reply = await call
        assert (reply.request_id, reply.label) == ("r1", "7")
        assert reply.confidence == pytest.approx(0.91, abs=1e-6)
        assert reply.energy.energy_j == pytest.approx(0.012)
        assert reply.energy.provenance == common_pb2.PROVENANCE_MODELLED
        (attempt,) = reply.routing.attempts
        assert (attempt.arm, attempt.outcome, attempt.stage) == ("small:v1@fake-1", "answered", 0)
        assert attempt.predicted_energy_j == pytest.approx(0.01)
        assert reply.routing.budget_met
        assert reply.routing.bound_energy_j >= reply.routing.predicted_energy_j > 0
        assert reply.timing.total_ms >= reply.timing.infer_ms > 0
        trailer = dict(await call.trailing_metadata())
        assert trailer["x-energy-joules"] == "0.012"
        assert trailer["x-energy-method"] == "modelled:profile:fake"


async def test_unknown_joules_are_told_as_unknown(live: Live) -> None:
    async with live.node(arms=[FakeArm(energy_j=None)], behaviour=answers(7)):
        call: Any = live.stub.Infer(digit(), timeout=5)
        reply = await call
        assert reply.energy.provenance == common_pb2.PROVENANCE_UNMEASURED
        assert dict(await call.trailing_metadata())["x-energy-joules"] == "unmeasured"
        await refusal(infer(live, digit(budget=common_pb2.Budget(max_energy_j=5.0))), "BUDGET_INFEASIBLE")


async def test_the_client_sees_the_same(live: Live) -> None:
    async with live.node(arms=[CHEAP], behaviour=answers(7)), one_client(live) as client:
        answer = await client.infer(IMAGE, budget=Budget(max_energy_j=0.5, max_latency_ms=500), request_id="mine")
        assert (answer.request_id, answer.label) == ("mine", "7")
        assert answer.energy.provenance is Provenance.MODELLED
        why = await client.explain("mine")
        assert (why.outcome, why.chosen, why.max_energy_j) == ("answered", "small:v1@fake-1", 0.5)
        assert why.candidates[0].feasible
        with pytest.raises(RequestError) as caught:
            await client.infer(IMAGE, expert="absent")
        assert caught.value.reason == "EXPERT_NOT_FOUND"


async def test_budgets_that_operators_set_hold_and_survive_a_restart(tmp_path: Path) -> None:
    for life in range(2):
        async with (
            live_gateway(tmp_path) as live,
            live.node(arms=[CHEAP], behaviour=answers(7)),
            one_client(live) as client,
        ):
            if life == 0:
                await client.infer(IMAGE)
                await client.set_budget(Budget(max_energy_j=1e-6), task="digits")
            await refusal(infer(live, digit()), "BUDGET_INFEASIBLE")
            assert [(b.task, b.origin) for b in await client.budgets()] == [("", "default"), ("digits", "set")]


# ---- failures on the way


async def test_a_node_that_vanishes_costs_a_retry_and_no_answer(live: Live) -> None:
    async with live.node(name="good", arms=[DEAR], behaviour=answers(7)):
        bad = live.node(name="bad", arms=[CHEAP], behaviour=vanishes())
        await bad.join()
        reply = await infer(live, digit())
        assert reply.label == "7"
        assert [(a.arm, a.reason) for a in reply.routing.attempts] == [
            ("small:v1@bad", "NODE_GONE"),
            ("small:v1@good", ""),
        ]


async def test_a_frozen_node_is_suspected_and_its_late_answer_goes_nowhere(live: Live) -> None:
    async with (
        live.node(name="good", arms=[DEAR], behaviour=answers(7)),
        live.node(name="bad", arms=[CHEAP], behaviour=answers(1)) as bad,
    ):
        bad.freeze()
        reply = await infer(live, digit())
        assert reply.label == "7"
        assert reply.routing.attempts[0].outcome == "late"
        fleet = live.gateway.service.fleet
        assert fleet.state("bad").value == "suspect"
        assert (await infer(live, digit())).routing.attempts[0].arm == "small:v1@good"
        bad.thaw()
        await until(lambda: fleet.state("bad").value == "healthy")
        assert (await infer(live, digit())).label == "1"


async def test_what_a_node_says_of_its_failure_stays_inside(live: Live) -> None:
    secret = "CUDA error in /srv/models/x.onnx"
    async with live.node(behaviour=fails("ENGINE_ERROR", message=secret)):
        found = await refusal(infer(live, digit()), "ATTEMPTS_FAILED", secrets=["CUDA", "/srv"])
        assert found.retry_s is not None
        assert found.metadata["reasons"] == "ENGINE_ERROR"


async def test_every_call_ends_by_its_deadline(live: Live) -> None:
    async with live.node(behaviour=silent()) as node, one_client(live) as client:
        started_s = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await client.infer(IMAGE, timeout_s=0.3)
        assert time.monotonic() - started_s <= 0.4
        await node.cancelled((await node.received(1)).work_id)
        await until(lambda: live.gateway.service.admission.running == 0)
        assert live.gateway.service.fleet.board.nodes["fake-1"].pending == 0


async def test_a_client_that_goes_away_frees_the_node_at_once(live: Live) -> None:
    async with live.node(behaviour=silent()) as node:
        call: Any = live.stub.Infer(digit(request_id="r1"), timeout=5)
        work = await node.received(1)
        cancelled_s = time.monotonic()
        call.cancel()
        assert await node.cancelled(work.work_id) - cancelled_s <= 0.1
        journal = live.gateway.service.journal
        await until(lambda: ("", "r1") in journal._entries)
        entry = journal.get("r1")
        assert entry.outcome == "CANCELLED"
        assert [attempt.outcome for attempt in entry.routing.attempts] == ["cancelled"]
        assert entry.energy.energy_j == pytest.approx(0.01)


async def test_with_retries_off_a_failure_is_told(tmp_path: Path) -> None:
    async with (
        live_gateway(tmp_path, retries=Retries(enabled=False)) as live,
        live.node(name="good", arms=[DEAR], behaviour=answers(7)),
        live.node(name="bad", arms=[CHEAP], behaviour=fails()),
    ):
        await refusal(infer(live, digit()), "ATTEMPTS_FAILED")


# ---- planning that does not work


class NoPlans(Executor):
    """Where no plan is ever made."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        raise OSError("no process for you")


async def test_requests_flow_while_planning_is_dead(tmp_path: Path) -> None:
    async with live_gateway(tmp_path, executor=NoPlans) as live, live.node(behaviour=answers(7)):
        for _ in range(5):
            reply = await infer(live, digit())
            assert (reply.label, reply.routing.certificate.status) == ("7", "none")
            await asyncio.sleep(0.06)
        async with live.node(name="second", arms=[FakeArm(energy_j=0.001)], behaviour=answers(5)):
            assert (await infer(live, digit())).label == "5"


# ---- overload and the end


async def test_more_than_can_run_and_wait_is_told_to_come_back(tmp_path: Path) -> None:
    async with (
        live_gateway(tmp_path, admission=Admission(max_running=2, max_queued=1)) as live,
        live.node(behaviour=silent()) as node,
    ):
        running = [asyncio.ensure_future(infer(live, digit(), timeout=60)) for _ in range(3)]
        await node.received(2)
        await until(lambda: live.gateway.service.admission.queued == 1)
        started_s = time.monotonic()
        found = await refusal(infer(live, digit()), "OVERLOADED")
        assert time.monotonic() - started_s <= 0.05
        assert found.retry_s is not None
        assert found.retry_s >= 0.05
        for call in running:
            call.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await until(lambda: live.gateway.service.admission.running == 0)


async def test_a_gateway_that_stops_finishes_what_runs_and_takes_nothing_new(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def behave(turn: Any) -> None:
        await go.wait()
        await answers(7)(turn)

    stack = contextlib.AsyncExitStack()
    live = await stack.enter_async_context(live_gateway(tmp_path))
    node = live.node(behaviour=behave)
    await node.join()
    channel = grpc.aio.insecure_channel(live.address)
    other = Live(live.gateway, live.address, channel, live.http)
    running = asyncio.ensure_future(infer(other, digit()))
    await node.received(1)
    stopping = asyncio.ensure_future(stack.aclose())
    await until(lambda: live.gateway.service.admission.closed)
    await refusal(infer(other, digit()), "DRAINING")
    go.set()
    assert (await running).label == "7"
    await node.vanish()
    await stopping
    await channel.close(None)


async def test_hundreds_at_once_each_get_their_own_answer(live: Live) -> None:
    """The label is in the image: no answer goes to the wrong caller."""

    async def behave(turn: Any) -> None:
        image = np.frombuffer(turn.work.tensors.inputs[0].data, dtype=np.float32)
        await answers(int(image[0]), delay_s=0.001 * float(image[1]))(turn)

    async with live.node(behaviour=behave), one_client(live) as client:

        async def ask(number: int) -> bool:
            image = np.zeros((1, 8, 8), dtype=np.float32)
            image[0, 0, 0], image[0, 0, 1] = number % 10, number * 7 % 11
            answer = await client.infer(image, request_id=f"r{number}", budget=PATIENT, timeout_s=20)
            return (answer.label, answer.request_id) == (str(number % 10), f"r{number}")

        await client.status()
        assert all(await asyncio.gather(*(ask(number) for number in range(300))))
        assert math.isclose(live.gateway.service.fleet.board.nodes["fake-1"].pending_ms, 0.0)


async def test_only_what_has_failed_elsewhere_passes_a_standing_queue(live: Live) -> None:
    """A newcomer whose route is chosen anew, as for a smaller quota, is a newcomer still."""
    service = live.gateway.service
    async with live.node(name="good", arms=[DEAR], behaviour=answers(7)):
        await until(lambda: service.planner.standing("digits"))
        board = service.fleet.board
        load = board.nodes["good"]
        load.shedding = Shedding(room=0.0, since_s=time.monotonic(), lapses_s=math.inf)
        held_ms = [board.dispatched(load.arms[0], 50.0) for _ in range(load.concurrency + 2)]
        again = service.decider.again(service.fleet.tasks["digits"], np.zeros(64), Wish())
        newcomer, retried = (again(limits(), avoid) for avoid in (frozenset[int](), frozenset({99})))
        assert newcomer is not None
        assert newcomer.route is None
        assert retried is not None
        assert retried.route is not None
        for one_ms in held_ms:
            board.released(load.arms[0], one_ms)
