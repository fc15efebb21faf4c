"""Keeps one agent running as a child process: starts it, starts it again, and takes it along when it ends itself.

This is the class of the actor. It knows nothing of Ray, so that it runs, and is tested, without.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import version
from typing import Any

from nodes.errors import ExitCode
from nodes.identity.folder import default_root, is_identity
from nodes.ray.order import Order

TETHER = (sys.executable, "-m", "nodes.ray.tether")
TOKEN = "EDGEWISE_NODE_TOKEN"  # noqa: S105 (a name)
BASE_S, CAP_S = 0.25, 30.0
# An agent that ran for so long had started well.
SETTLED_S = 60.0
# What trying again cannot help soon: the gateway's word, a wrong option.
HOPELESS = frozenset({ExitCode.USAGE, ExitCode.CONFIG, ExitCode.AUTH})
LAST_LINES = 5
LAST_WORDS_S = 1.0
# The gateway's word for an identity that another joining under the same name made void, as a move to and fro does.
REPLACED = "IDENTITY_REPLACED"


class State(StrEnum):
    """Of the agent."""

    STARTING = "starting"
    RUNNING = "running"
    BACKING_OFF = "backing off"
    NEEDS_TOKEN = "needs token"  # noqa: S105 (a state)
    DRAINING = "draining"
    DRAINED = "drained"


@dataclass(frozen=True)
class Report:
    """What a keeper says of its agent, for people and for `edgewise ray up`.

    Attributes:
        starts: Times that this keeper started it.
        last_exit: Exit code of the life before; None where there was none.
        said: The last line that the agent wrote before it ended.
    """

    name: str
    revision: str
    version: str
    state: State
    host: str
    keeper_pid: int
    agent_pid: int | None
    starts: int
    last_exit: int | None
    said: str


def delay_s(code: int, failures: int, rng: random.Random) -> float:
    """Seconds to wait before the next start: doubling with half of it at random; the longest where it is hopeless."""
    ceiling_s = CAP_S if code in HOPELESS else min(CAP_S, BASE_S * 2.0 ** min(failures, 10))
    return ceiling_s * rng.uniform(0.5, 1.0)


def agent_command(order: Order, join_url: str | None) -> list[str]:
    """The command line of the agent; no secret is in it."""
    name, options = ["--name", order.name], order.options
    if order.gateway is not None:
        return [*TETHER, "run", "--gateway", order.gateway, *name, *options]
    return [*TETHER, "join", join_url, *name, *options] if join_url else [*TETHER, "run", *name, *options]


class Keeper:
    """Supervises one agent. Its methods may be called from several threads.

    Args:
        order: `Order` as plain values.
        environment: What the agent is given; this process's own where None.
    """

    def __init__(self, order: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> None:
        self._order = Order(**order)
        self._environment = dict(os.environ if environment is None else environment)
        self._changed = threading.Condition()
        self._state = State.STARTING
        self._ticket: tuple[str, str] | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._last_exit: int | None = None
        self._replaced = False
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._rng = random.Random()  # noqa: S311 (only spreads starts)
        self._ending = False
        threading.Thread(target=self._supervise, name="keeper", daemon=True).start()

    # ---- what the cluster's clients call

    def report(self) -> dict[str, Any]:
        """A `Report` as plain values."""
        with self._changed:
            pid = self._child.pid if self._child is not None and self._child.poll() is None else None
            said = self._lines[-1] if self._lines else ""
            told = Report(
                name=self._order.name,
                revision=self._order.revision,
                version=version("edgewise"),
                state=self._state,
                host=socket.gethostname(),
                keeper_pid=os.getpid(),
                agent_pid=pid,
                starts=self._starts,
                last_exit=self._last_exit,
                said=said,
            )
        return {**asdict(told), "state": told.state.value}

    def admit(self, url: str, token: str) -> None:
        """Take a join token; it is used once and kept nowhere."""
        with self._changed:
            self._ticket = (url, token)
            self._changed.notify_all()

    def drain(self, within_s: float) -> bool:
        """Have the agent finish what runs and leave; whether it did in time. It is not started again."""
        with self._changed:
            self._ending = True
            self._state = State.DRAINED if self._child is None else State.DRAINING
            self._changed.notify_all()
            if self._child is not None:
                self._child.send_signal(signal.SIGTERM)
            return self._changed.wait_for(lambda: self._child is None, within_s)

    def close(self) -> None:
        """End the agent at once."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
            if self._child is not None:
                self._child.kill()

    # ---- the supervising thread

    def _supervise(self) -> None:
        failures = 0
        while self._may_start():
            began_s = time.monotonic()
            code = self._live()
            failures = 1 if time.monotonic() - began_s > SETTLED_S else failures + 1
            with self._changed:
                if self._ending or code == ExitCode.OK:
                    # An operator drained it: it stays away until it is placed anew.
                    self._state = State.DRAINED
                    return
                self._state = State.BACKING_OFF
                self._changed.wait_for(lambda: self._ending, delay_s(code, failures, self._rng))

    def _may_start(self) -> bool:
        """Wait until the agent can prove who it is; False where there is to be no agent any more."""
        with self._changed:
            if not (self._can_prove_itself() or self._ending):
                self._state = State.NEEDS_TOKEN
                self._changed.wait_for(lambda: self._ending or self._ticket is not None)
            if self._ending:
                self._state = State.DRAINED
            return not self._ending

    def _can_prove_itself(self) -> bool:
        known = is_identity(default_root(self._environment) / self._order.name) and not self._replaced
        return self._order.gateway is not None or known or self._ticket is not None

    def _live(self) -> int:
        """One life of the agent; its exit code."""
        with self._changed:
            ticket, self._ticket = self._ticket, None
            url, token = ticket or (None, None)
            child = subprocess.Popen(
                agent_command(self._order, url),
                env={**self._environment, **({TOKEN: token} if token else {})},
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            self._child, self._starts, self._state = child, self._starts + 1, State.RUNNING
            self._lines.clear()
        # What the agent started may hold its stderr longer than it lives itself.
        hearing = threading.Thread(target=self._hear, args=(child,), name="log", daemon=True)
        hearing.start()
        code = child.wait()
        hearing.join(LAST_WORDS_S)
        with self._changed:
            self._child, self._last_exit = None, code
            self._replaced = code == ExitCode.AUTH and any(REPLACED in line for line in self._lines)
            if code == ExitCode.UNREACHABLE and self._ticket is None:
                self._ticket = ticket
            self._changed.notify_all()
        return code

    def _hear(self, child: subprocess.Popen[bytes]) -> None:
        """Pass the agent's log on to this process's, and remember its end."""
        assert child.stderr is not None
        for line in child.stderr:
            text = line.decode(errors="replace").rstrip()
            print(text, file=sys.stderr, flush=True)
            if text:
                with self._changed:
                    self._lines.append("".join(letter if letter.isprintable() else " " for letter in text[:300]))
