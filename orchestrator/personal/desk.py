"""The gateway's desk for users' own experts: homes, orders to them, and what is remembered of answered requests."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import RequestError, Unavailable
from orchestrator.fleet.arms import ArmState
from orchestrator.fleet.fleet import Fleet
from orchestrator.fleet.session import NodeSession, OutboxFull, SessionEnded
from orchestrator.personal.homes import Homes
from orchestrator.personal.overlay import Overlay, overlay
from orchestrator.personal.types import Owner, PersonalNote, PersonalReport, PersonalStatus
from orchestrator.personal.wire import keep_command, order_command
from orchestrator.routing.route import Decision, Wish
from orchestrator.types import Array, Limits, Query, TextQuery

ORDER_TIMEOUT_S = 20.0
# Answered requests that a correction may come for.
REMEMBERED = 20_000
STATUSES = 20_000
# Name of a text's question among kept tensors.
QUESTION = "question"
Asking = TypeVar("Asking", Query, TextQuery)
VERBS = ("train", "status", "rollback", "export", "forget")


@dataclass(frozen=True)
class Asked:
    """An answered request of an owner."""

    owner: Owner
    task: str


class PersonalDesk:
    """Everything about users' own experts that is the gateway's business. One event loop.

    Args:
        fleet: Nodes.
        homes: Where users are at home.
    """

    def __init__(self, fleet: Fleet, homes: Homes | None = None) -> None:
        self._fleet = fleet
        self._homes = homes or Homes()
        self._status: OrderedDict[tuple[Owner, str], PersonalStatus] = OrderedDict()
        self._asked: OrderedDict[tuple[str, str], Asked] = OrderedDict()
        self._waiting: dict[int, tuple[str, asyncio.Future[PersonalReport]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._order_ids = itertools.count(1)

    # ---- requests

    def claim(self, query: Asking, tenant: str) -> Asking:
        """A query with its owner, the user of the tenant that was authenticated, and the node that may be told."""
        owner = Owner(tenant, query.user)
        state = self.home(owner, query.task.name)
        return replace(query, owner=owner, home="" if state is None else state.arm.node)

    def home(self, owner: Owner, task: str) -> ArmState | None:
        """The arm on the owner's home node that may learn them; None where the node is away or nobody learns."""
        able = {
            session.name: session.hello.personal_experts
            for session in self._fleet.sessions.values()
            if session.hello.personal_experts and not session.draining
        }
        states = self._fleet.board.arms(task)
        arms = {state.arm.node: state for state in states if state.arm.expert in able.get(state.arm.node, ())}
        home = self._homes.settle(owner, task, arms)
        return None if home is None else arms.get(home)

    def overlay(
        self,
        owner: Owner,
        generic: Decision,
        features_f: NDArray[np.floating[Any]],
        *,
        task: str,
        limits: Limits,
        wish: Wish,
    ) -> Overlay | None:
        """The owner's expert in place of the plan's choice, where it is worth it."""
        state = self.home(owner, task)
        status = self._status.get((owner, task))
        if state is None or status is None or wish.expert not in (None, state.arm.expert):
            return None
        return overlay(generic, status, state, board=self._fleet.board, limits=limits, wish=wish, features_f=features_f)

    def answered(self, owner: Owner, query: Query | TextQuery, note: PersonalNote | None) -> None:
        """A request of an owner was answered: by their home, or elsewhere, and then the input is copied to it.

        An input that may only be on certain nodes goes nowhere else, home or not.
        """
        task = query.task.name
        self._asked[owner.tenant, query.request_id] = Asked(owner, task)
        if len(self._asked) > REMEMBERED:
            self._asked.popitem(last=False)
        if note is not None:
            self._learn(owner, task, note.status)
            return
        state = self.home(owner, task)
        session = None if state is None else self._fleet.sessions.get(state.arm.node)
        if state is None or session is None:
            return
        barred = bool(query.allowed_nodes) and session.name not in query.allowed_nodes
        if barred or not query.required_tags <= state.arm.tags:
            return
        with contextlib.suppress(OutboxFull, SessionEnded):
            session.send(keep_command(query.request_id, owner, expert=state.arm.expert, inputs=_inputs(query)))
        if (owner, task) not in self._status:
            self._learn(owner, task, PersonalStatus(node=session.name, task=task))
            self._spawn(self._ask_status(owner, task))

    async def _ask_status(self, owner: Owner, task: str) -> None:
        """After a restart of the gateway the node knows what the gateway has forgotten."""
        with contextlib.suppress(RequestError, Unavailable):
            await self._order(owner, task, verb="status")

    # ---- orders

    async def correct(self, tenant: str | None, request_id: str, label: str) -> PersonalStatus:
        """Pass a correction on to the owner's home.

        Raises:
            RequestError: REQUEST_NOT_FOUND, FEEDBACK_EXPIRED, FIELD_OUT_OF_RANGE.
            Unavailable: HOME_AWAY.
        """
        asked = self._asked.get((tenant or "", request_id))
        if asked is None:
            raise RequestError(
                "FEEDBACK_EXPIRED",
                "No such request of a user is remembered; labels are taken for requests that carried a user.",
            )
        return await self._order(asked.owner, asked.task, verb="correct", request_id=request_id, label=label)

    async def order(self, owner: Owner, task: str, verb: str) -> PersonalStatus:
        """Have the owner's home do something; raises as `correct`."""
        if verb not in VERBS:
            raise RequestError("FIELD_OUT_OF_RANGE", f"verb must be one of {', '.join(VERBS)}.", field="verb")
        status = await self._order(owner, task, verb=verb)
        if verb == "forget":
            self._homes.forget(owner, task)
            self._status.pop((owner, task), None)
            for key in [key for key, asked in self._asked.items() if asked == Asked(owner, task)]:
                del self._asked[key]
        return status

    async def _order(
        self, owner: Owner, task: str, *, verb: str, request_id: str = "", label: str = ""
    ) -> PersonalStatus:
        session = self._session(owner, task)
        order_id = next(self._order_ids)
        waiting: asyncio.Future[PersonalReport] = asyncio.get_running_loop().create_future()
        self._waiting[order_id] = session.name, waiting
        try:
            session.send(order_command(order_id, owner, task=task, verb=verb, request_id=request_id, label=label))
            async with asyncio.timeout(ORDER_TIMEOUT_S):
                report = await waiting
        except (OutboxFull, SessionEnded, TimeoutError):
            raise _away() from None
        finally:
            del self._waiting[order_id]
        if report.reason:
            raise _refused(report)
        self._learn(owner, task, report.status)
        return report.status

    def _session(self, owner: Owner, task: str) -> NodeSession:
        if task not in self._fleet.tasks:
            raise RequestError("TASK_NOT_FOUND", "No node serves a task of this name.", field="task")
        self.home(owner, task)
        home = self._homes.of(owner, task)
        if home is None:
            raise RequestError(
                "PERSONAL_OFF", "No node lets its experts learn their users; see `edgewise node run --personal`."
            )
        session = self._fleet.sessions.get(home)
        if session is None:
            raise _away()
        return session

    def reported(self, node: str, report: PersonalReport) -> None:
        """A node's report; one of another node than was asked is dropped."""
        asked, waiting = self._waiting.get(report.order_id, ("", None))
        if waiting is not None and asked == node and not waiting.done():
            waiting.set_result(report)

    # ---- small things

    def _learn(self, owner: Owner, task: str, status: PersonalStatus) -> None:
        self._status[owner, task] = status
        self._status.move_to_end((owner, task))
        if len(self._status) > STATUSES:
            self._status.popitem(last=False)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _inputs(query: Query | TextQuery) -> Mapping[str, Array]:
    """What is kept for a correction: the tensors, or the question as bytes."""
    if isinstance(query, Query):
        return query.inputs
    return {QUESTION: np.frombuffer(query.prompt.encode(), np.uint8)}


def _away() -> Unavailable:
    return Unavailable("HOME_AWAY", "The user's home node is not connected; try again later.", retry_after_s=5.0)


def _refused(report: PersonalReport) -> RequestError:
    known = report.reason in ("FEEDBACK_EXPIRED", "FIELD_OUT_OF_RANGE", "PERSONAL_OFF")
    return RequestError(report.reason if known else "PERSONAL_FAILED", report.message or "The node could not do this.")
