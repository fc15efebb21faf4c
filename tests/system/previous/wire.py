"""The messages of the last release, and what a release before or after makes of ours.

`wire.binpb` holds the protos of the last release (``python -m deploy.stubs --release`` replaces it when one is made).
Classes made from it read our bytes as that release does: what it does not know is dropped, what it does not send is
absent. The next release is ours with fields, events and commands that we do not know.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from edgewise.v1 import fleet_pb2 as fleet

FOLDER = Path(__file__).parent
UP, DOWN = "edgewise.v1.FromNode", "edgewise.v1.ToNode"
# Far from all numbers in use: length-delimited field 9999 and varint field 9998.
UNKNOWN = b"\xfa\xf0\x04\x05later" + b"\xf0\xf0\x04\x2a"

Change = Callable[[bytes], bytes]


def released_files() -> descriptor_pb2.FileDescriptorSet:
    """The protos of the last release, with what they import."""
    return descriptor_pb2.FileDescriptorSet.FromString((FOLDER / "wire.binpb").read_bytes())


def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for file in released_files().file:
        pool.Add(file)
    return pool


_POOL = _pool()


def released(name: str) -> Any:
    """A message class of the last release."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


def as_released(name: str) -> Change:
    """Bytes as the last release would have sent or read them."""
    kind = released(name)

    def change(data: bytes) -> bytes:
        message = kind.FromString(data)
        message.DiscardUnknownFields()
        return bytes(message.SerializeToString())

    return change


def as_next(kind: type[Message], parts: str) -> Change:
    """Bytes as a later release might send them: unknown fields in every message, and an unknown part beside ours.

    Not beside a hello or a welcome: they come alone, in every version of protocol 1.
    """

    def change(data: bytes) -> bytes:
        message = kind.FromString(data)
        _grow(message)
        found = getattr(message, parts)
        if not any(part.WhichOneof(part.DESCRIPTOR.oneofs[0].name) in ("hello", "welcome") for part in found):
            # An event or command of a kind that is not known here: nothing of the oneof is set.
            found.add().MergeFromString(UNKNOWN)
        return message.SerializeToString()

    return change


def _grow(message: Message) -> None:
    for field, value in list(message.ListFields()):
        if field.type == field.TYPE_MESSAGE:
            for one in value if field.is_repeated else [value]:
                _grow(one)
    message.MergeFromString(UNKNOWN)


PREVIOUS = (as_released(UP), as_released(DOWN))
NEXT = (as_next(fleet.FromNode, "events"), as_next(fleet.ToNode, "commands"))
SAME: tuple[Change, Change] = (lambda data: data, lambda data: data)
