"""The child process that speaks to the cluster: one line of JSON there, one line back, each within a time.

A call into a cluster whose head is gone can hang for a minute and then take its process along. It is not this one's.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from orchestrator.errors import ExitCode
from orchestrator.placement.errors import PlacementError

NODES = (sys.executable, "-m", "nodes", "ray")
# A head takes 10 s to start on two slow cores.
OPEN_S = 120.0
# Within this the absence of a cluster's head must have become an error.
ANSWER_S = 8.0


def control_command(spec: Path, *, start: bool) -> list[str]:
    """How the child is started."""
    return [*NODES, "control", "--spec", str(spec), *(["--start"] if start else [])]


class Control:
    """See the module. Use as a context manager.

    Args:
        command: Starts the child.

    Raises:
        PlacementError: There is no cluster to speak to; says why.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        threading.Thread(target=self._read, name="control", daemon=True).start()
        try:
            self._receive(OPEN_S)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, verb: str, *, within_s: float = ANSWER_S, **fields: Any) -> Any:
        """What the child answers to an order.

        Raises:
            PlacementError: What it says is wrong, or that nothing is heard of it in time.
        """
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write(json.dumps({"do": verb, **fields}) + "\n")
            self._child.stdin.flush()
        return self._receive(within_s)

    def close(self) -> None:
        """End the child; it owns nothing that must be ended in order."""
        self._child.kill()
        self._child.wait()

    def _receive(self, within_s: float) -> Any:
        try:
            line = self._answers.get(timeout=within_s)
        except queue.Empty:
            why = f"nothing was heard of the cluster for {within_s:g} s"
            raise _lost(why) from None
        if not line:
            raise _lost("the process that speaks to the cluster ended")
        told = json.loads(line)
        if "error" in told:
            why, _, cure = str(told["error"]).rpartition("; ")
            raise PlacementError(why or cure, cure, exit_code=ExitCode(told["exit_code"]))
        return told["value"]

    def _read(self) -> None:
        """Hand lines over; an empty one says that there are no more."""
        assert self._child.stdout is not None
        for line in self._child.stdout:
            self._answers.put(line)
        self._answers.put("")


def _lost(why: str) -> PlacementError:
    cure = "is its head alive? Requests are answered as before; agents are not restarted until it is back"
    return PlacementError(why, cure, what="cluster lost", exit_code=ExitCode.UNREACHABLE)
