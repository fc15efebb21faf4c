"""The engine process: reads frames from stdin, runs models, writes frames to the stdout it was born with.

Operations: ``load`` {id, arm, path, sha256, compiled} (+ the tensor ``model`` in place of the file, or ``staged``, see
`nodes.worker.staging`) -> ``loaded``; ``stage`` {id, key} + the tensor ``piece`` -> ``staged``; ``unload`` {id, arm} ->
``unloaded``; ``infer`` {id, arm} + tensors -> ``done`` + tensors; ``identify`` {id, runtime} -> ``identified``;
``build`` {id, …, see `building.build`} -> ``piece`` {step}, then ``built`` {file};
any of them -> ``failed`` {id, reason, text}. The first frame out is ``ready`` with the versions found.

The process ends when stdin closes (its agent is gone) and ignores SIGINT and SIGTERM, which a terminal or a
service manager sends to the whole group: the agent decides when running work has finished.
Needs Python 3.10, numpy and onnxruntime.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nodes.worker.frames import Frame
    from nodes.worker.lockdown import Rules
    from nodes.worker.sessions import Sessions

READ_BYTES = 256 * 1024
PR_SET_PDEATHSIG = 1


def main(slots: int, parent_pid: int, rules: Rules | None = None) -> None:
    """Serve until stdin closes.

    Args:
        slots: Models that run at once, each in a thread of its own.
        parent_pid: The agent; the process leaves at once where that is no longer its parent.
        rules: What it may still do once it is ready; None leaves it as free as the agent.
    """
    commands_fd, replies_fd = enter_process(parent_pid)
    serve(slots, commands_fd, Replies(replies_fd), rules=rules)


def enter_process(parent_pid: int) -> tuple[int, int]:
    """Tie the process to its agent; where commands come from and answers go to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _die_with_parent(parent_pid)
    return _claim_pipes()


def _die_with_parent(parent_pid: int) -> None:
    if sys.platform.startswith("linux"):
        # Best effort: a closing stdin ends the process too, only later.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(0)


def _claim_pipes() -> tuple[int, int]:
    # Libraries print to stdout when they please; from here on that is stderr.
    commands_fd, replies_fd = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return commands_fd, replies_fd


class Replies:
    """The one writer of frames; threads take turns."""

    def __init__(self, fd: int) -> None:
        from nodes.worker.frames import encode

        self._fd = fd
        self._lock = threading.Lock()
        self._encode = encode

    def send(self, header: dict[str, Any], tensors: Any = None) -> None:
        """Write one frame; blocks while the pipe is full."""
        view = memoryview(self._encode(header, tensors))
        with self._lock:
            while view:
                view = view[os.write(self._fd, view) :]


class Commands:
    """Frames for whichever thread asks first.

    The thread that reads a frame also runs it: handing it to another one costs more than a small model takes.
    """

    def __init__(self, fd: int) -> None:
        from nodes.worker.frames import FrameDecoder

        self._fd = fd
        self._lock = threading.Lock()
        self._decoder = FrameDecoder()
        self._read: deque[Frame] = deque()

    def next(self) -> Frame | None:
        """The next frame; blocks. None when the agent has closed the pipe."""
        with self._lock:
            while not self._read:
                data = os.read(self._fd, READ_BYTES)
                if not data:
                    return None
                self._read.extend(self._decoder.feed(data))
            return self._read.popleft()


def serve(
    slots: int, commands_fd: int, replies: Replies, *, rules: Rules | None = None, needs_onnxruntime: bool = True
) -> None:
    """Answer commands in so many threads until stdin closes."""
    greet(replies, rules, needs_onnxruntime=needs_onnxruntime)
    from nodes.worker.sessions import Sessions

    sessions, commands = Sessions(), Commands(commands_fd)
    threads = [threading.Thread(target=_run, args=(sessions, commands, replies)) for _ in range(slots)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def greet(replies: Replies, rules: Rules | None = None, *, needs_onnxruntime: bool = True) -> None:
    """Say that the process is ready, with which versions, and what protects others from it.

    The version is "" where onnxruntime is neither there nor needed.
    """
    # Imported only now, when nothing that they print can reach the pipe.
    import numpy

    versions = {"python": platform.python_version(), "numpy": numpy.__version__, "onnxruntime": ""}
    try:
        import onnxruntime

        versions["onnxruntime"] = onnxruntime.__version__
    except ImportError:
        if needs_onnxruntime:
            raise
    protections = {} if rules is None else {"protections": _locked(rules)}
    replies.send({"op": "ready", **versions, "pid": os.getpid(), **protections})


def _locked(rules: Rules) -> str:
    # Everything that is needed later, before it cannot be opened any more; not everybody has kernels.
    import nodes.worker.sessions
    from nodes.worker.lockdown import lock

    with contextlib.suppress(ImportError):
        import nodes.worker.chains
        import nodes.worker.forks  # noqa: F401
        from kernels.native.library import available

        available()
    return lock(rules).described()


def _run(sessions: Sessions, commands: Commands, replies: Replies) -> None:
    try:
        while (frame := commands.next()) is not None:
            try:
                replies.send(*_answer(sessions, frame, replies))
            except BrokenPipeError:
                break
            except Exception as error:  # The rim of the process: a model may raise anything.
                replies.send(failure(frame, error))
    finally:
        # The agent is gone, or what it sends cannot be trusted. Other threads may still be inside a model; nobody
        # waits for their answers any more.
        os._exit(0)


def _answer(sessions: Sessions, frame: Frame, replies: Replies) -> tuple[dict[str, Any], Any]:
    header = frame.header
    if frame.op == "infer":
        outputs, compute_ms = sessions.run(header["arm"], frame.tensors())
        return {"op": "done", "id": header["id"], "compute_ms": compute_ms}, outputs
    if frame.op == "load":
        held = frame.tensors().get("model")
        model = None if held is None else held.tobytes()
        if "staged" in header:
            found = sessions.load_staged(header["arm"], header["staged"], header["sha256"])
        else:
            compiled = header.get("compiled")
            found = sessions.load(header["arm"], header["path"], header["sha256"], model=model, compiled=compiled)
        return {"op": "loaded", "id": header["id"], **found}, None
    if frame.op == "stage":
        sessions.staging.add(header["key"], frame.tensors()["piece"])
        return {"op": "staged", "id": header["id"]}, None
    if frame.op == "unload":
        sessions.unload(header["arm"])
        return {"op": "unloaded", "id": header["id"]}, None
    if frame.op in ("identify", "build"):
        return _for_the_compile_room(frame, replies), None
    raise ValueError(f"no operation {frame.op}")


def _for_the_compile_room(frame: Frame, replies: Replies) -> dict[str, Any]:
    from nodes.worker import building

    header = frame.header
    if frame.op == "identify":
        return {"op": "identified", "id": header["id"], **building.identify(header["runtime"])}
    file = building.build(header, lambda step: replies.send({"op": "piece", "id": header["id"], "step": step}))
    return {"op": "built", "id": header["id"], "file": file}


def failure(frame: Frame, error: Exception) -> dict[str, Any]:
    """The frame that tells the agent what went wrong."""
    text = f"{type(error).__name__}: {error}"[:500]
    # By name: ONNX Runtime's InvalidArgument is a class made at run time, and not everybody has kernels.
    refused = type(error).__name__ in ("InvalidArgument", "FrameError", "PromptRefused", "ShapeError")
    reason = "INPUT_INVALID" if refused and frame.op in ("infer", "generate") else "ENGINE_ERROR"
    return {"op": "failed", "id": frame.header.get("id"), "reason": reason, "text": text}
