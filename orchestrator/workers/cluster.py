"""Workers on a Ray cluster that wants a token; nothing here is needed, or imported, without `--workers ray`."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from orchestrator.errors import ExitCode
from orchestrator.placement.errors import PlacementError
from orchestrator.workers.contract import RETRY, Item, Progress, Result, check_function
from orchestrator.workers.driver import POLL_S, TOKEN_PATH, Failure, Work, drive

DEFAULT_TOKEN = "~/.ray/auth_token"  # noqa: S105 (a path)
CHECK_S = 20.0
OPEN_S = 60.0
# A head that does not listen for so many polls is gone; together less than what a user waits for an error.
SILENT_POLLS = 3
# Agents and other jobs may hold every core; work that never begins must not look like work that takes long.
BEGIN_S = 120.0


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
        self._end: Callable[[], None] = lambda: None
        self._check()
        try:
            self._connection = self._opened()
            self._receive(OPEN_S)
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

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
        self._connection.send(Work(function, items, seed, retry))
        found: dict[int, Result] = {}
        while (told := self._receive(BEGIN_S if not found else None)) is not None:
            index, result = told
            found[index] = result
            if progress:
                progress(len(found), len(items))
        return [found[index] for index in range(len(items))]

    def _receive(self, within_s: float | None) -> Any:
        """What the driver says next.

        Args:
            within_s: How long nothing may come where nothing came before; None waits as long as the head lives.
        """
        silent = polls = 0
        while not self._connection.poll(POLL_S):
            polls += 1
            silent = 0 if self._listens() else silent + 1
            if silent >= SILENT_POLLS:
                raise self._gone()
            if within_s is not None and polls * POLL_S > within_s:
                raise self._stuck(within_s)
        try:
            told = self._connection.recv()
        except EOFError:
            raise self._gone() from None
        if isinstance(told, Failure):
            raise told.error()
        if isinstance(told, Exception):
            raise told
        return told

    def _check(self) -> None:
        """Let the nodes' side look whether the cluster is guarded: it alone knows how to tell."""
        command = [sys.executable, "-m", "nodes", "ray", "check", self._address, "--token-file", str(self._token)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_S)
        if ended.returncode:
            text = (ended.stderr.strip().splitlines() or ["it says nothing"])[-1].removeprefix("Error: ")
            why, _, cure = text.rpartition("; ")
            raise PlacementError(why or cure, cure, exit_code=ExitCode(ended.returncode))

    def _opened(self) -> Connection:
        """Start the driver; the way to it."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        driver = context.Process(target=drive, args=(theirs, self._address, self._token), daemon=True)
        driver.start()
        theirs.close()

        def end() -> None:
            ours.close()
            driver.kill()
            driver.join()

        self._end = end
        return ours

    def _listens(self) -> bool:
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), POLL_S).close()
        except OSError:
            return False
        return True

    def _gone(self) -> PlacementError:
        why = f"nothing was heard of the cluster at {self._address}"
        cure = "start its head and run this again, or use `--workers local:N`; nothing was written"
        return PlacementError(why, cure, what="cluster lost", exit_code=ExitCode.UNREACHABLE)

    def _stuck(self, waited_s: float) -> PlacementError:
        why = f"no work came back from {self._address} for {waited_s:g} s"
        cure = "is a core free for it? `ray status` shows it; give agents fewer num_cpus, or add a node"
        return PlacementError(why, cure, what="no room for work", exit_code=ExitCode.UNREACHABLE)
