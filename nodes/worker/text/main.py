"""The text engine's process: reads orders from stdin, writes texts token by token to the stdout it was born with.

Operations: ``load`` {id, arm, path, sha256} (+ the tensor ``model`` in place of the file) -> ``loaded``; ``unload``
{id, arm} -> ``unloaded``; ``generate`` {id, arm, …} (+ the tensor ``delta``, what of a model is the user's own) ->
``piece`` {id, text, token_ids} any number of times, then ``end`` {id, finish, …}; ``cancel`` {id} ends the
generation of that id with finish "cancelled" and has no answer of its own. A ``generate`` with the tensor ``texts``,
their JSON, wants a vector of each and nothing written: a ``piece`` for every step, the last one with the tensor
``vectors``. Anything that goes wrong -> ``failed`` {id, reason, text}. A ``generate`` with {shared: true} waits for
``turn`` {id, token_ids, count, …}, each answered with ``piece`` whose last one has {rests: true}; see
`nodes.worker.text.sharing`.

One thread reads, one steps all texts. Life and death as in `nodes.worker.main`.
Needs Python 3.10, numpy and onnxruntime.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from typing import TYPE_CHECKING, Any

from nodes.worker.main import Commands, Replies, enter_process, failure, greet

if TYPE_CHECKING:
    from nodes.worker.frames import Frame
    from nodes.worker.lockdown import Rules
    from nodes.worker.text.batcher import Batcher, Running
    from nodes.worker.text.library import Library

Inbox = queue.SimpleQueue["Frame | None"]


def main(slots: int, parent_pid: int, rules: Rules | None = None) -> None:  # noqa: ARG001
    """Serve until stdin closes. `slots` is the agent's business: it never has more texts running."""
    commands_fd, replies_fd = enter_process(parent_pid)
    # Before the process is locked: later they could not be read any more.
    import nodes.worker.text.batcher
    import nodes.worker.text.library  # noqa: F401

    replies, inbox = Replies(replies_fd), Inbox()
    greet(replies, rules)
    threading.Thread(target=_read, args=(Commands(commands_fd), inbox), daemon=True).start()
    try:
        _Desk(replies).serve(inbox)
    finally:
        os._exit(0)


def _read(commands: Commands, inbox: Inbox) -> None:
    try:
        while (frame := commands.next()) is not None:
            inbox.put(frame)
    finally:
        inbox.put(None)


class _Desk:
    """Takes orders between steps."""

    def __init__(self, replies: Replies) -> None:
        from nodes.worker.text.batcher import Batcher
        from nodes.worker.text.library import Library

        self._replies = replies
        self._library: Library = Library()
        self._batcher: Batcher = Batcher()

    def serve(self, inbox: Inbox) -> None:
        """Until the agent is gone."""
        while True:
            while not (self._batcher.busy and inbox.empty()):
                frame = inbox.get()
                if frame is None:
                    return
                self._take(frame)
            for text in self._batcher.step():
                self._tell(text)

    def _take(self, frame: Frame) -> None:
        try:
            self._apply(frame)
        except BrokenPipeError:
            raise
        except Exception as error:  # The rim of the process: a model may raise anything.
            self._replies.send(failure(frame, error))

    def _apply(self, frame: Frame) -> None:
        from nodes.worker.text.sharing import turn_from
        from nodes.worker.text.writing import order_from

        header = frame.header
        match frame.op:
            case "generate" if header.get("shared"):
                mixture, order = self._library.arm(header["arm"]), order_from(header)
                self._batcher.join_shared(header["id"], mixture, order, quiet=bool(header["quiet"]))
            case "generate" if (texts := frame.tensors().get("texts")) is not None:
                mixture = self._library.arm(header["arm"])
                self._batcher.join_reading(header["id"], mixture, json.loads(texts.tobytes()))
            case "turn":
                if (shared := self._batcher.turn(header["id"], turn_from(header))) is not None:
                    self._tell(shared)
            case "generate":
                order = order_from(header, frame.tensors().get("delta"))
                text = self._batcher.join(header["id"], self._library.arm(header["arm"]), order)
                if text.writing.finish:
                    self._tell(text)
            case "cancel":
                if (text_left := self._batcher.leave(header["id"])) is not None:
                    text_left.piece = None
                    self._tell(text_left)
            case "load":
                held = frame.tensors().get("model")
                model = None if held is None else held.tobytes()
                found = self._library.load(header["arm"], header["path"], header["sha256"], model=model)
                self._replies.send({"op": "loaded", "id": header["id"], **found})
            case "unload":
                self._library.unload(header["arm"])
                self._batcher.shelf.retain(self._library.digests)
                self._replies.send({"op": "unloaded", "id": header["id"]})
            case _:
                raise ValueError(f"no operation {frame.op}")

    def _tell(self, text: Running) -> None:
        if text.piece is not None:
            piece = {"text": text.piece.text, "token_ids": text.piece.token_ids, "logprobs": text.piece.logprobs}
            self._replies.send({"op": "piece", "id": text.key, **piece, **_turn_of(text)}, _told(text))
        if text.writing.finish:
            self._replies.send({"op": "end", "id": text.key, **_end(text)})


def _turn_of(text: Running) -> dict[str, Any]:
    """What is told of a shared text beside its piece."""
    from nodes.worker.text.sharing import Voice
    from nodes.worker.text.spelling import Spelled

    if not isinstance(text.writing, Voice):
        return {}
    told = text.writing.told
    where = {"rests": text.writing.waits, "ended": bool(text.writing.finish)}
    if isinstance(told, Spelled):
        # JSON knows no bytes.
        strings = [string.decode("latin-1") for string in told.strings]
        return {**where, "strings": strings, "read_tokens": told.read_tokens}
    return {**where, "top_ids": told.top_ids if told else ()}


def _told(text: Running) -> dict[str, Any] | None:
    """Vectors, or probabilities that were asked for, once."""
    from nodes.worker.text.sharing import Voice
    from nodes.worker.text.spelling import Spelled
    from nodes.worker.text.vectors import Reading

    if isinstance(text.writing, Reading):
        return {"vectors": text.writing.vectors_bd} if text.writing.finish else None
    if not isinstance(text.writing, Voice) or text.writing.told is None:
        return None
    told, text.writing.told = text.writing.told, None
    found = {"probabilities": told.probabilities}
    if isinstance(told, Spelled) and told.next_bytes is not None:
        found["next_bytes"] = told.next_bytes
    return found


def _end(text: Running) -> dict[str, Any]:
    from time import perf_counter

    from nodes.worker.text.sharing import Voice

    writing, counts = text.writing, text.writing.counts
    taken_s = text.busy_s if isinstance(writing, Voice) else perf_counter() - text.joined_s
    return {
        "finish": writing.finish,
        "prompt_tokens": writing.prompt_tokens,
        "cached_tokens": writing.cached_tokens,
        "completion_tokens": writing.completion_tokens,
        "compute_ms": taken_s * 1e3,
        "macs": counts.macs,
        "calls": counts.calls,
        "caught_up_tokens": counts.caught_up_tokens,
        "margin_fraction": writing.margin_fraction,
        "first_token_ms": text.first_token_ms,
    }
