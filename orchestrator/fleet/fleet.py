"""All nodes: who is connected, which tasks they serve, who is suspected, whose lease ran out.

One event loop owns the fleet. Nothing here blocks; whoever must act on a change (bind routes again, plan again)
subscribes to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

import structlog

from orchestrator.errors import RequestError
from orchestrator.fleet.arms import ArmBoard
from orchestrator.fleet.dormitory import Dormitory
from orchestrator.fleet.evidence import EvidenceStore
from orchestrator.fleet.latecomers import Latecomers
from orchestrator.fleet.session import NodeSession
from orchestrator.types import Arm, Array, NodeHello, Residency, Task

log = structlog.get_logger("fleet")

PROTOCOL_VERSION = 1


class NodeState(Enum):
    """How a node stands."""

    HEALTHY = "healthy"
    SUSPECT = "suspect"
    DRAINING = "draining"
    ASLEEP = "asleep"
    WAKING = "waking"
    OFFLINE = "offline"


class Change(Enum):
    """What happened to the fleet."""

    # Arms came or went: routes must be bound again, the plan made again.
    ARMS = "arms"
    # A node was suspected or cleared: routes must be bound again.
    ROUTABLE = "routable"
    # A reference set or an expert's answers arrived.
    EVIDENCE = "evidence"
    # A device began to slow itself down, or ceased to.
    CONDITIONS = "conditions"


@dataclass(frozen=True)
class Refusal:
    """Why a node may not join; `retryable` tells it whether to try again."""

    reason: str
    message: str
    retryable: bool


class Fleet:
    """Registry of nodes.

    Args:
        board: Where arms are predicted.
        lease_s: A node that was not heard for so long is taken as gone.
        suspect_after_s: See `suspect_silent`.
        clock: Monotonic seconds.
        latecomers: Nodes that may be on their way; None expects nobody.
    """

    def __init__(
        self,
        board: ArmBoard,
        *,
        lease_s: float,
        clock: Callable[[], float] = time.monotonic,
        latecomers: Latecomers | None = None,
    ) -> None:
        self.board = board
        self.evidence = EvidenceStore()
        self.dormitory = Dormitory(clock)
        self.latecomers = latecomers or Latecomers(clock=clock)
        self.sessions: dict[str, NodeSession] = {}
        self.tasks: dict[str, Task] = {}
        self.known: dict[str, NodeHello] = {}
        self._suspects: set[str] = set()
        self._lease_s = lease_s
        self._clock = clock
        self._epoch = 0
        self._listeners: list[Callable[[Change], None]] = []

    def subscribe(self, listener: Callable[[Change], None]) -> None:
        """Have `listener` called after every change."""
        self._listeners.append(listener)

    def unsubscribe(self, listener: Callable[[Change], None]) -> None:
        """Call `listener` no more."""
        self._listeners.remove(listener)

    def _changed(self, change: Change) -> None:
        for listener in [*self._listeners]:
            listener(change)

    # ---- joining and leaving

    def join(self, hello: NodeHello) -> NodeSession | Refusal:
        """Take a node in, or say why not."""
        refusal = self._refusal(hello)
        if refusal is not None:
            return refusal
        for task in hello.tasks:
            # What nobody serves any more may come back as something else.
            if task.name not in self.tasks or not self._serves(task.name):
                self.tasks[task.name] = task
            elif task.reference_digest and not self.tasks[task.name].reference_digest:
                # The nodes so far have no reference set: this one's will do.
                self.tasks[task.name] = task
        # Epochs rise also across restarts of the gateway, as long as its clock is not set back.
        self._epoch = max(self._epoch + 1, time.time_ns())
        session = NodeSession(hello, epoch=self._epoch, clock=self._clock)
        self.sessions[hello.node] = session
        self.known[hello.node] = hello
        self._suspects.discard(hello.node)
        self.dormitory.joined(hello.node)
        self.latecomers.came(hello.node)
        self.board.announce(hello.node, hello.arms, hello.concurrency, queue_limit=hello.queue_limit)
        self._changed(Change.ARMS)
        return session

    def remember(self, hello: NodeHello, *, slept_s: float) -> None:
        """A node that slept already when the gateway was started."""
        if hello.node in self.known or hello.sleep is None:
            return
        for task in hello.tasks:
            self.tasks.setdefault(task.name, task)
        self.known[hello.node] = hello
        self.board.announce(hello.node, hello.arms, hello.concurrency, queue_limit=hello.queue_limit)
        self.board.set_routable(hello.node, False)
        self.dormitory.fell_asleep(hello, ago_s=slept_s)
        self._changed(Change.ARMS)

    def _refusal(self, hello: NodeHello) -> Refusal | None:
        if hello.protocol_version != PROTOCOL_VERSION:
            text = f"This gateway speaks protocol {PROTOCOL_VERSION}; update the older side."
            return Refusal("PROTOCOL_MISMATCH", text, retryable=False)
        if hello.node in self.sessions:
            text = "A node of this name is connected; give this one another with --name."
            return Refusal("NAME_TAKEN", text, retryable=True)
        announced = {task.name for task in hello.tasks}
        if any(arm.task not in announced for arm in hello.arms):
            return Refusal("TASK_UNKNOWN", "An arm belongs to a task that was not announced.", retryable=False)
        for task in hello.tasks:
            known = self.tasks.get(task.name)
            if (
                known is not None
                and self._serves(task.name)
                and replace(known, reference_digest="") != replace(task, reference_digest="")
            ):
                text = f"Task {task.name} has other inputs, outputs or labels on the nodes that serve it already."
                return Refusal("TASK_CONFLICT", text, retryable=False)
        return None

    def _serves(self, task: str) -> bool:
        return any(arm.task == task for hello in self._connected() for arm in hello.arms)

    def lacks(self, hello: NodeHello) -> bool:
        """Whether a node offers an expert that no node offers which takes work now."""
        return not all(self.board.has_arms(arm.task, arm.expert) for arm in hello.arms)

    def _connected(self) -> list[NodeHello]:
        return [session.hello for session in self.sessions.values()]

    def leave(self, session: NodeSession) -> None:
        """A node's stream is gone."""
        session.end()
        if self.sessions.get(session.name) is not session:
            return
        del self.sessions[session.name]
        self._suspects.discard(session.name)
        if session.sleeping:
            self.dormitory.fell_asleep(session.hello, drained_s=session.drained_s())
        self.board.set_routable(session.name, False)
        self._changed(Change.ARMS)

    def change_arms(self, session: NodeSession, arms: tuple[Arm, ...]) -> None:
        """A node's arms changed (a model was loaded, unloaded or given up).

        Raises:
            RequestError: INPUT_INVALID.
        """
        announced = {task.name for task in session.hello.tasks}
        if any(arm.task not in announced for arm in arms):
            raise RequestError("INPUT_INVALID", "An arm belongs to a task that was not announced.")
        session.hello = self.known[session.name] = replace(session.hello, arms=arms)
        hello = session.hello
        self.board.announce(session.name, arms, hello.concurrency, queue_limit=hello.queue_limit)
        self.board.set_routable(session.name, not session.draining)
        self._changed(Change.ARMS)

    def change_residency(self, session: NodeSession, arm: str, residency: Residency) -> None:
        """An expert of a node was loaded or unloaded: routes stay as they are, their prices change.

        Raises:
            RequestError: INPUT_INVALID.
        """
        index = self.board.index_of(f"{arm}@{session.name}")
        if index is None:
            raise RequestError("INPUT_INVALID", "A residency is of an arm that was not announced.")
        self.board.set_residency(index, residency)

    def drain(self, session: NodeSession) -> None:
        """A node takes nothing new."""
        session.drain()
        if self.board.set_routable(session.name, False):
            self._changed(Change.ARMS)

    # ---- liveness

    def heard(self, session: NodeSession) -> None:
        """A message came: a suspect is cleared."""
        if self._suspects and session.name in self._suspects:
            self._suspects.discard(session.name)
            if not session.draining and self.board.set_routable(session.name, True):
                self._changed(Change.ROUTABLE)

    def signalled(self, session: NodeSession, temperature_c: float | None, throttles: tuple[str, ...]) -> None:
        """A node told its device's temperature and what slows it down."""
        session.temperature_c = temperature_c
        if frozenset(throttles) == frozenset(session.throttles):
            return
        log.warning("node.throttles", node=session.name, throttles=throttles, before=session.throttles)
        session.throttles = throttles
        self.board.forget(session.name)
        self._changed(Change.CONDITIONS)

    def suspect(self, session: NodeSession) -> None:
        """Work on a node ran out of time while the node was silent: route around it until it is heard.

        The last routable node of a task stays in routing: where all are silent, the fault is more likely here than
        there.
        """
        tasks = {arm.task for arm in session.hello.arms}
        spared = all(any(state.arm.node != session.name for state in self.board.arms(task)) for task in tasks)
        if not spared or session.name in self._suspects or self.sessions.get(session.name) is not session:
            return
        self._suspects.add(session.name)
        if self.board.set_routable(session.name, False):
            self._changed(Change.ROUTABLE)

    def expired(self) -> list[NodeSession]:
        """Sessions whose lease ran out."""
        now_s = self._clock()
        return [session for session in self.sessions.values() if now_s - session.seen_s > self._lease_s]

    def state(self, node: str) -> NodeState:
        """How a node stands."""
        session = self.sessions.get(node)
        if session is None:
            return NodeState(self.dormitory.state(node) or NodeState.OFFLINE)
        if session.draining:
            return NodeState.DRAINING
        return NodeState.SUSPECT if node in self._suspects else NodeState.HEALTHY

    def session_of(self, node: str) -> NodeSession:
        """The session of a connected node.

        Raises:
            RequestError: NODE_NOT_FOUND.
        """
        session = self.sessions.get(node)
        if session is None:
            raise RequestError("NODE_NOT_FOUND", "No node of this name is connected; see `edgewise node list`.")
        return session

    # ---- evidence

    def wanted_digests(self, hello: NodeHello) -> list[str]:
        """What the gateway has yet to see to learn about a node's experts."""
        digests = [task.reference_digest for task in hello.tasks]
        digests += [arm.evidence_digest for arm in hello.arms]
        return self.evidence.wanted(digests)

    def take_evidence(self, digest: str, tensors: dict[str, Array]) -> None:
        """A node sent a reference set or an expert's answers.

        Raises:
            RequestError: INPUT_INVALID.
        """
        hellos = self._connected()
        digests = {task.reference_digest for hello in hellos for task in hello.tasks}
        digests |= {arm.evidence_digest for hello in hellos for arm in hello.arms}
        if digest not in digests:
            raise RequestError("INPUT_INVALID", "Evidence came that nobody announced.")
        if digest not in self.evidence:
            self.evidence.put(digest, tensors, in_use=frozenset(digests))
            self._changed(Change.EVIDENCE)
