"""Workers on a Ray cluster that wants a token; nothing here is needed, or imported, without `--workers ray`."""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from orchestrator.errors import ExitCode
from orchestrator.placement.errors import PlacementError
from orchestrator.workers.contract import RETRY, Item, Progress, Result, check_function, died_too_often, run, seed_of

TOKEN_PATH, DEFAULT_TOKEN = "RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token"
CHECK_S = 20.0
POLL_S = 1.0
PATIENCE_S = 30.0
# A head that does not listen for so many polls is gone; together less than what a user waits for an error.
SILENT_POLLS = 4


class RayWorkers:
    """Tasks of one core each on a cluster; see `Workers`. Use as a context manager.

    Args:
        address: HOST:PORT of the head.
        token_file: Holds the cluster's token; $RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token where None.

    Raises:
        PlacementError: The cluster wants no token, does not take ours, or does not answer, or Ray is not installed.
    """

    def __init__(self, address: str, token_file: Path | None = None) -> None:
        self._address = address
        self._token = (token_file or Path(os.environ.get(TOKEN_PATH, DEFAULT_TOKEN))).expanduser()
        self._lost = False
        self._check()
        self._ray = self._connected()
        self._aside = ExitStack()

    def __enter__(self) -> Self:
        # Ray prints what happens to its nodes to stdout, which belongs to the result.
        self._aside.enter_context(redirect_stdout(sys.stderr))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._lost:
            self._ray.shutdown()
        self._aside.close()

    def map(
        self,
        function: Callable[..., Result],
        items: Sequence[Item],
        *,
        seed: int | None = None,
        progress: Progress | None = None,
        retry: int = RETRY,
    ) -> list[Result]:
        """See `Workers`."""
        check_function(function)
        self._await_core()
        shared = self._ray.put(function)
        task = self._ray.remote(run).options(num_cpus=1, max_retries=retry, retry_exceptions=False)
        asked = {task.remote(shared, item, seed_of(seed, index)): index for index, item in enumerate(items)}
        found: dict[int, Result] = {}
        silent = 0
        while asked:
            ready, _ = self._ray.wait([*asked], timeout=POLL_S)
            silent = 0 if ready or self._listens() else silent + 1
            if silent >= SILENT_POLLS:
                raise self._gone()
            for reference in ready:
                found[asked.pop(reference)] = self._result(reference, retry)
                if progress:
                    progress(len(found), len(items))
        return [found[index] for index in range(len(items))]

    def _await_core(self) -> None:
        """Agents and other jobs may hold every core; work that never begins must not look like work that takes long."""
        until_s = time.monotonic() + PATIENCE_S
        while self._ray.available_resources().get("CPU", 0.0) < 1.0:
            if time.monotonic() > until_s:
                why = f"no Ray node of {self._address} has had a free core for {PATIENCE_S:g} s"
                raise PlacementError(why, "give agents fewer num_cpus, or add a node", what="no room for work")
            time.sleep(POLL_S)

    def _result(self, reference: Any, retry: int) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference, timeout=10 * POLL_S)
        except errors.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            raise cause from None
        except errors.GetTimeoutError as error:
            raise self._gone() from error
        except errors.RayError as error:
            if not self._listens():
                raise self._gone() from error
            raise died_too_often(retry + 1, f"Ray says {type(error).__name__}; look into its logs") from error

    def _check(self) -> None:
        """Let the nodes' side look whether the cluster is guarded: it alone knows how to tell."""
        command = [sys.executable, "-m", "nodes", "ray", "check", self._address, "--token-file", str(self._token)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_S)
        if ended.returncode:
            text = (ended.stderr.strip().splitlines() or ["it says nothing"])[-1].removeprefix("Error: ")
            why, _, cure = text.rpartition("; ")
            raise PlacementError(why or cure, cure, exit_code=ExitCode(ended.returncode))

    def _connected(self) -> Any:
        os.environ.pop("RAY_AUTH_TOKEN", None)
        os.environ.update({"RAY_AUTH_MODE": "token", TOKEN_PATH: str(self._token), "RAY_USAGE_STATS_ENABLED": "0"})
        if self._address.startswith(("127.", "localhost:", "[::1]")):
            # Read when Ray is imported; else it would look for the head at another of the machine's addresses.
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        import ray

        try:
            ray.init(address=self._address, log_to_driver=False, logging_level="ERROR")
        except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
            why = f"the cluster at {self._address} does not take us in ({' '.join(str(error).split())[:200]})"
            cure = f"is {self._token} its token, and does a Ray node run on this machine?"
            raise PlacementError(why, cure, exit_code=ExitCode.UNREACHABLE) from error
        return ray

    def _listens(self) -> bool:
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), POLL_S).close()
        except OSError:
            return False
        return True

    def _gone(self) -> PlacementError:
        self._lost = True
        # Its farewell to a head that is gone would take a minute.
        atexit.unregister(self._ray.shutdown)
        why = f"nothing was heard of the cluster at {self._address} for {SILENT_POLLS * POLL_S:g} s"
        cure = "start its head and run this again, or use `--workers local:N`; nothing was written"
        return PlacementError(why, cure, what="cluster lost", exit_code=ExitCode.UNREACHABLE)
