"""Puts nodes to sleep, wakes them, and tells the books what that took.

A wake is a magic packet from the gateway and from every node that relays, again and again until the node has joined,
and the command that the configuration names for the node, if any. The packet may get lost, and a machine that is still
falling asleep does not hear it.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from orchestrator.errors import BudgetInfeasible, EdgewiseError, RequestError, Unavailable
from orchestrator.fleet.dormitory import Dormitory, Sleeper
from orchestrator.fleet.fleet import Change, Fleet
from orchestrator.fleet.session import OutboxFull, SessionEnded
from orchestrator.fleet.wire import suspend_command, wake_peer_command
from orchestrator.gateway.till import Till
from orchestrator.sleep.packet import send_packet
from orchestrator.sleep.register import SleepRegister
from orchestrator.types import Arm, Limits

log = structlog.get_logger("sleep")

RESEND_S = 1.0
COMMAND_TIMEOUT_S = 30.0
RETRY_AFTER_S = 1.0


@dataclass(frozen=True)
class Rousable:
    """An arm on a node that sleeps.

    Args:
        node: Which.
        index: Of the arm, on the board.
        needed_ms: Until its answer, if the node is woken now.
        energy_j: Of the answer, as promised.
        cost_j: Of the answer as expected, and of waking where that has not begun.
    """

    node: str
    index: int
    needed_ms: float
    energy_j: float
    cost_j: float


class SleepKeeper:
    """What is done about sleep.

    Args:
        fleet: Nodes.
        till: The books.
        wake_commands: By node, what wakes it beside the magic packet.
        on_demand: Whether a request that no node that is awake can serve wakes one.
        send: Sends a magic packet.
        register: Keeps who sleeps across restarts; None does not.
    """

    def __init__(
        self,
        fleet: Fleet,
        till: Till,
        *,
        wake_commands: Mapping[str, str] | None = None,
        on_demand: bool = True,
        send: Callable[[str, str], None] = send_packet,
        register: SleepRegister | None = None,
    ) -> None:
        self._fleet = fleet
        self._till = till
        self._commands = dict(wake_commands or {})
        self._on_demand = on_demand
        self._send = send
        self._waking: dict[str, asyncio.Task[None]] = {}
        self._register = register or SleepRegister()
        for hello, slept_s in self._register.read():
            fleet.remember(hello, slept_s=slept_s)
            log.info("node.still_asleep", node=hello.node, slept_s=slept_s)
        fleet.subscribe(self._on_change)

    @property
    def dormitory(self) -> Dormitory:
        """Who sleeps."""
        return self._fleet.dormitory

    # ---- to sleep

    def sleep(self, node: str, reason: str) -> None:
        """Have a node finish what runs, then sleep.

        Raises:
            RequestError: NODE_NOT_FOUND, or SLEEP_OFF where its operator does not allow that.
        """
        if node in self.dormitory.sleepers:
            return
        session = self._fleet.session_of(node)
        if session.hello.sleep is None:
            raise RequestError("SLEEP_OFF", "This node's operator does not let it be put to sleep (--allow-suspend).")
        if session.draining:
            return
        self._fleet.drain(session)
        session.send(suspend_command(reason))
        log.info("node.to_sleep", node=node, why=reason)

    # ---- and back

    def wake(self, node: str, reason: str) -> None:
        """Begin to wake a node; nothing happens where it does not sleep or is being woken.

        Raises:
            RequestError: NODE_NOT_FOUND: nobody of this name is there or sleeps.
        """
        if node not in self.dormitory.sleepers:
            self._fleet.session_of(node)
            return
        self.dormitory.woken(node)
        calling = self._waking.get(node)
        if calling is None or calling.done():
            log.info("node.woken", node=node, why=reason)
            self._waking[node] = asyncio.ensure_future(self._call(node))

    async def _call(self, node: str) -> None:
        """Until it has joined, or is given up; one that has joined and fell asleep again is not called any more."""
        if command := self._commands.get(node):
            await _run(node, command)
        while self.dormitory.state(node) == "waking":
            self._send_packets(self.dormitory.sleepers[node])
            await asyncio.sleep(RESEND_S)
            for late in self.dormitory.late():
                log.warning("node.did_not_wake", node=late)

    def _send_packets(self, sleeper: Sleeper) -> None:
        offer = sleeper.offer
        if not offer.mac:
            return
        try:
            self._send(offer.mac, offer.wake_address)
        except (OSError, ValueError) as error:
            log.warning("node.packet_not_sent", node=sleeper.hello.node, why=str(error))
        for session in self._fleet.sessions.values():
            if session.hello.relays_wake:
                with contextlib.suppress(OutboxFull, SessionEnded):
                    session.send(wake_peer_command(offer))

    # ---- because a request needs it

    async def rouse(
        self, task: str, suits: Callable[[Arm], bool], *, limits: Limits, left_ms: float, cause: EdgewiseError
    ) -> None:
        """Wake a node for a request that no node that is awake can serve; returns when it is there.

        Args:
            task: Of the request.
            suits: Whether an arm of the task could serve it.
            limits: Of the request.
            left_ms: What is left of its milliseconds.
            cause: Why nobody can serve it, raised again where sleeping nodes do not help.

        Raises:
            BudgetInfeasible: Nobody is awake, and no sleeper can answer in time; its minimum counts the waking.
            Unavailable: The node was woken and did not come in time.
        """
        found = self._rousable(task, suits) if self._on_demand else []
        fitting = [one for one in found if one.needed_ms <= left_ms and one.energy_j <= limits.max_energy_j]
        if not fitting:
            raise self._too_late(found, cause)
        chosen = min(fitting, key=lambda one: one.cost_j)
        self.wake(chosen.node, f"a request of {task} needs it")
        service_ms = float(self._fleet.board.service_bound_ms_n[chosen.index])
        try:
            async with asyncio.timeout(max(0.0, left_ms - service_ms) / 1000.0):
                await self._joined(chosen.node)
        except TimeoutError as error:
            raise Unavailable(
                "NO_NODE", f"Node {chosen.node} was woken and did not come in time.", retry_after_s=RETRY_AFTER_S
            ) from error

    async def _joined(self, node: str) -> None:
        arrived = asyncio.Event()

        def look(change: Change) -> None:
            if change is Change.ARMS and node in self._fleet.sessions:
                arrived.set()

        self._fleet.subscribe(look)
        try:
            look(Change.ARMS)
            await arrived.wait()
        finally:
            self._fleet.unsubscribe(look)

    def _rousable(self, task: str, suits: Callable[[Arm], bool]) -> list[Rousable]:
        board, found = self._fleet.board, list[Rousable]()
        for node, sleeper in self.dormitory.sleepers.items():
            if sleeper.overdue:
                continue
            begun_j = sleeper.offer.wake_j if sleeper.waking_s is None else 0.0
            for index in board.nodes[node].arms:
                arm = board.states[index].arm
                if arm.task != task or not suits(arm):
                    continue
                needed_ms = 1000.0 * self.dormitory.left_s(node) + float(board.service_bound_ms_n[index])
                cost_j = begun_j + float(board.energy_j_n[index])
                found.append(Rousable(node, index, needed_ms, float(board.energy_bound_j_n[index]), cost_j))
        return found

    @staticmethod
    def _too_late(found: list[Rousable], cause: EdgewiseError) -> EdgewiseError:
        if not found or isinstance(cause, BudgetInfeasible):
            return cause
        first = min(found, key=lambda one: one.needed_ms)
        return BudgetInfeasible(min_energy_j=first.energy_j, min_latency_ms=first.needed_ms)

    # ---- the books

    def _on_change(self, change: Change) -> None:
        if change is not Change.ARMS:
            return
        self._register.keep(self.dormitory)
        rested, self.dormitory.rested = self.dormitory.rested, []
        for rest in rested:
            self._till.rested(rest.node, rest.energy_j)
            log.info("node.awake", node=rest.node, slept_s=rest.slept_s, took_s=rest.took_s, energy_j=rest.energy_j)

    async def close(self) -> None:
        """Wake nobody any more."""
        for task in list(self._waking.values()):
            task.cancel()
        await asyncio.gather(*self._waking.values(), return_exceptions=True)


async def _run(node: str, command: str) -> None:
    """The configured command, whatever comes of it."""
    try:
        process = await asyncio.create_subprocess_exec(
            *shlex.split(command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            code = await process.wait()
    except (OSError, ValueError, TimeoutError) as error:
        log.warning("node.wake_command_failed", node=node, why=str(error) or type(error).__name__)
        return
    if code:
        log.warning("node.wake_command_failed", node=node, exit_code=code)
