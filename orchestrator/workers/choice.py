"""Reads where work is to be done: ``local``, ``local:N``, ``ray``, ``ray@HOST:PORT``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator.errors import ExitCode
from orchestrator.placement.errors import PlacementError
from orchestrator.workers.contract import Workers
from orchestrator.workers.local import Here, Pool

MOST = 256
_WHAT, _CURE = "wrong workers", "write local, local:N, ray or ray@HOST:PORT"


@dataclass(frozen=True)
class Choice:
    """Where work is done.

    Args:
        processes: Of this machine; None for this process itself.
        address: HOST:PORT of a cluster's head; None where there is none.
    """

    processes: int | None = None
    address: str | None = None

    @property
    def elsewhere(self) -> bool:
        """Whether other processes do it, which can be given plain values only."""
        return self.processes is not None or self.address is not None


def parse_workers(text: str, environment: Mapping[str, str] = os.environ) -> Choice:
    """The choice of a text.

    Raises:
        PlacementError: It is none of the forms, or ``ray`` without an address anywhere.
    """
    kind, colon, count = text.partition(":")
    if text == "local":
        return Choice()
    if kind == "local" and colon and count.isdecimal() and 1 <= int(count) <= MOST:
        return Choice(processes=int(count))
    if text == "ray":
        address = environment.get("RAY_ADDRESS", "")
        if not _is_address(address):
            raise _wrong(f"ray needs HOST:PORT of a head in RAY_ADDRESS, which is {address!r}")
        return Choice(address=address)
    if text.startswith("ray@") and _is_address(address := text.removeprefix("ray@")):
        return Choice(address=address)
    raise _wrong(f"{text!r} is none of them")


@contextmanager
def opened(choice: Choice) -> Iterator[Workers]:
    """The workers of a choice, put away afterwards.

    Raises:
        PlacementError: As in `RayWorkers`.
    """
    if choice.address is None:
        yield Here() if choice.processes is None else Pool(choice.processes)
        return
    from orchestrator.workers.cluster import RayWorkers

    with RayWorkers(choice.address) as workers:
        yield workers


def told(note: Callable[[str], None], what: str) -> Callable[[int, int], None]:
    """Progress as notes: "fold 1 of 5"; ten of them where there is much to tell."""

    def tell(done: int, total: int) -> None:
        if done * 10 // total > (done - 1) * 10 // total:
            note(f"{what} {done} of {total}")

    return tell


def _is_address(text: str) -> bool:
    host, colon, port = text.rpartition(":")
    return bool(host and colon and port.isdecimal() and 1 <= int(port) <= 65535)


def _wrong(why: str) -> PlacementError:
    return PlacementError(why, _CURE, what=_WHAT, exit_code=ExitCode.USAGE)
