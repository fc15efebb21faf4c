"""The process that speaks to Ray for `RayWorkers`.

It is apart because Ray's calls may hang for a minute where the head is gone, and then take their process along, and
because Ray prints what happens to its nodes to stdout, which belongs to the result.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from orchestrator.errors import ExitCode
from orchestrator.placement.errors import PlacementError
from orchestrator.workers.contract import died_too_often, run, seed_of

TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"  # noqa: S105 (a name)
# Tasks that the cluster knows of at once; so many more wait here.
WINDOW = 256
POLL_S = 1.0


@dataclass(frozen=True)
class Work:
    """What `Workers.map` was asked."""

    function: Callable[..., Any]
    items: Sequence[Any]
    seed: int | None
    retry: int


@dataclass(frozen=True)
class Failure:
    """A `PlacementError` on its way to the other process."""

    why: str
    cure: str
    what: str
    exit_code: ExitCode

    @classmethod
    def of(cls, error: PlacementError) -> Failure:
        """Of an error."""
        return cls(error.why, error.cure, error.what, error.exit_code)

    def error(self) -> PlacementError:
        """The error again."""
        return PlacementError(self.why, self.cure, what=self.what, exit_code=self.exit_code)


def drive(connection: Connection, address: str, token: Path) -> None:
    """Connect, then do work until the other end closes. The body of the process."""
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        ray = connect(address, token)
    except PlacementError as error:
        connection.send(Failure.of(error))
        return
    connection.send(None)
    serve(connection, ray)


def serve(connection: Connection, ray: Any) -> None:
    """Answer each piece of work with its results by index, then None; or with what went wrong."""
    while True:
        try:
            work: Work = connection.recv()
        except EOFError:
            return
        try:
            for index, result in results(ray, work):
                connection.send((index, result))
            connection.send(None)
        except PlacementError as error:
            connection.send(Failure.of(error))
        except Exception as error:  # the rim of a worker: what the function raised goes to whoever asked
            connection.send(error)


def results(ray: Any, work: Work) -> Iterator[tuple[int, Any]]:
    """Results by index, as they come.

    Raises:
        PlacementError: Workers died too often.
        Exception: What the function raised.
    """
    shared = ray.put(work.function)
    task = ray.remote(run).options(num_cpus=1, max_retries=work.retry, retry_exceptions=False)
    waiting = deque(range(len(work.items)))
    asked: dict[Any, int] = {}
    while waiting or asked:
        while waiting and len(asked) < WINDOW:
            index = waiting.popleft()
            asked[task.remote(shared, work.items[index], seed_of(work.seed, index))] = index
        ready, _ = ray.wait([*asked], timeout=POLL_S)
        for reference in ready:
            yield asked.pop(reference), _result(ray, reference, work.retry)


def _result(ray: Any, reference: Any, retry: int) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        raise cause from None
    except ray.exceptions.RayError as error:
        raise died_too_often(retry + 1, f"Ray says {type(error).__name__}; look into its logs") from error


def connect(address: str, token: Path) -> Any:
    """The module `ray`, connected.

    Raises:
        PlacementError: The cluster does not take us in.
    """
    os.environ.pop("RAY_AUTH_TOKEN", None)
    os.environ.update({"RAY_AUTH_MODE": "token", TOKEN_PATH: str(token), "RAY_USAGE_STATS_ENABLED": "0"})
    if address.startswith(("127.", "localhost:", "[::1]")):
        # Read when Ray is imported; else it would look for the head at another of the machine's addresses.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import ray
    except ImportError as error:
        cure = "`pip install 'edgewise[ray]'`, in an environment without the extra zeus"
        raise PlacementError("Ray is not installed here", cure, exit_code=ExitCode.CONFIG) from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
        why = f"the cluster at {address} does not take us in ({' '.join(str(error).split())[:200]})"
        cure = f"is {token} its token, and does a Ray node run on this machine?"
        raise PlacementError(why, cure, exit_code=ExitCode.UNREACHABLE) from error
    return ray
