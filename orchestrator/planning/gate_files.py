"""Gates that were trained by hand, in a running gateway: read at the start, looked at anew from time to time.

At the start a file that cannot be used is refused. Later, a file that has become unusable leaves the one before in
force; the log and `edgewise status` say so.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from optimizer.heads.given import Given, GivenTensors, GivenTexts
from optimizer.native.library import available
from orchestrator.config import GateFile
from orchestrator.study.errors import StudyError
from orchestrator.types import Task

log = structlog.get_logger("gate")

_TRAIN = "train one with `edgewise gate train`"
_WHAT = "gate refused"


@dataclass(frozen=True)
class LoadedGate:
    """A gate in use for one task.

    Args:
        given: What it says of a query.
        digest: SHA-256 of its file.
        text: Whether it reads texts; otherwise tensors.
    """

    given: Given
    digest: str
    text: bool


def load_gate_file(task: str, named: GateFile) -> LoadedGate:
    """Read one file.

    Raises:
        StudyError: Not there, not a gate, trained with another encoder, without a head for the task, or for texts
            where the compiled part is not built.
    """
    # The packages of studies are needed only where there is a gate.
    from orchestrator.study.sentences import load_sentences
    from orchestrator.study.store import StoredTensorGate, is_for_tensors, load_stored
    from orchestrator.study.tensors import load_tensor_encoder

    if named.encoder is None:
        stored = load_stored(named.file)
    elif is_for_tensors(named.file):
        stored = load_stored(named.file, tensors=load_tensor_encoder(named.encoder))
    else:
        stored = load_stored(named.file, load_sentences(named.encoder, named.tokenizer))
    digest = hashlib.sha256(named.file.read_bytes()).hexdigest()
    if not isinstance(stored, StoredTensorGate):
        if not available():
            raise StudyError(
                f"{named.file.name}: gates for text need the compiled part, which is not built here",
                "install a C compiler, then reinstall edgewise",
                what=_WHAT,
            )
        return LoadedGate(GivenTexts(stored.gate, task), digest, text=True)
    given = GivenTensors(stored.gate, task)
    if not given.experts:
        known = ", ".join(sorted(set(stored.gate.tasks_h)))
        raise StudyError(f"{named.file.name}: it has no head for task {task}, only for {known}", _TRAIN, what=_WHAT)
    return LoadedGate(given, digest, text=False)


class GateFiles:
    """The gate of each task that has one.

    Args:
        files: Where they are, by task.

    Raises:
        StudyError: As in `load_gate_file`; the text names the task.
    """

    def __init__(self, files: Mapping[str, GateFile] | None = None) -> None:
        self._files = dict(files or {})
        self._stamps = {task: _stamp(named.file) for task, named in self._files.items()}
        self._loaded = {task: _opened(task, named) for task, named in self._files.items()}
        self._problems: dict[str, str] = {}

    def of(self, task: Task) -> LoadedGate | None:
        """The gate in use; None where the task has none, or its queries are of another kind than the gate's."""
        loaded = self._loaded.get(task.name)
        if loaded is None or loaded.text == task.text:
            return loaded
        kinds = ("texts", "tensors") if loaded.text else ("tensors", "texts")
        self._tell(task.name, f"it reads {kinds[0]}, but the task's queries are {kinds[1]}; it is not used")
        return None

    def problem(self, task: str) -> str:
        """What is wrong with the task's file as it is now; "" where nothing is."""
        return self._problems.get(task, "")

    async def watch(self, check_s: float, changed: Callable[[], None]) -> None:
        """Read files anew whenever they change, until cancelled.

        Args:
            check_s: How often they are looked at.
            changed: Called when another gate is in use.
        """
        while self._files:
            await asyncio.sleep(check_s)
            stale = [task for task, named in self._files.items() if _stamp(named.file) != self._stamps[task]]
            for task in stale:
                if await self._read_again(task):
                    changed()

    async def _read_again(self, task: str) -> bool:
        named = self._files[task]
        self._stamps[task] = _stamp(named.file)
        try:
            loaded = await asyncio.to_thread(load_gate_file, task, named)
        except (StudyError, OSError) as error:
            self._tell(task, f"{error}; the one before ({self._loaded[task].digest[:12]}) stays in use")
            return False
        self._problems.pop(task, None)
        self._loaded[task] = loaded
        log.info("gate.loaded", task=task, file=str(named.file), sha256=loaded.digest)
        return True

    def _tell(self, task: str, problem: str) -> None:
        """Once for each."""
        if self._problems.get(task) != problem:
            self._problems[task] = problem
            log.warning("gate.problem", task=task, file=str(self._files[task].file), why=problem)


def _opened(task: str, named: GateFile) -> LoadedGate:
    try:
        return load_gate_file(task, named)
    except StudyError as error:
        why = f"gate.tasks.{task}: {error.why}"
        raise StudyError(why, error.cure, what=error.what, exit_code=error.exit_code) from error


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes whenever a file does; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
