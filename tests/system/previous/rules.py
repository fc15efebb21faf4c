"""What a proto file may not change once it was released, as sentences about two sets of protos. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

OURS = "edgewise."


@dataclass
class Protos:
    """Everything that was declared, by full name."""

    messages: dict[str, DescriptorProto] = field(default_factory=dict)
    enums: dict[str, EnumDescriptorProto] = field(default_factory=dict)
    services: dict[str, ServiceDescriptorProto] = field(default_factory=dict)


def declared(files: FileDescriptorSet) -> Protos:
    """What our files declare."""
    found = Protos()
    for file in files.file:
        if file.package.startswith(OURS):
            found.enums |= {f"{file.package}.{one.name}": one for one in file.enum_type}
            found.services |= {f"{file.package}.{one.name}": one for one in file.service}
            for message in file.message_type:
                _add(found, f"{file.package}.{message.name}", message)
    return found


def _add(found: Protos, name: str, message: DescriptorProto) -> None:
    found.messages[name] = message
    found.enums |= {f"{name}.{one.name}": one for one in message.enum_type}
    for inner in message.nested_type:
        _add(found, f"{name}.{inner.name}", inner)


def broken(before: Protos, now: Protos) -> list[str]:
    """One sentence for everything that a peer of the version before would misread, or miss."""
    told: list[str] = []
    for name, message in before.messages.items():
        told += _gone(name, now.messages) or _message(name, message, now.messages[name])
    for name, enum in before.enums.items():
        told += _gone(name, now.enums) or _enum(name, enum, now.enums[name])
    for name, service in before.services.items():
        told += _gone(name, now.services) or _service(name, service, now.services[name])
    return told


def _gone(name: str, now: Mapping[str, object]) -> list[str]:
    return [] if name in now else [f"{name} is gone"]


def _message(name: str, before: DescriptorProto, now: DescriptorProto) -> Iterator[str]:
    fields = {one.number: one for one in now.field}
    oneofs = [one.name for one in now.oneof_decl]
    for old in before.field:
        new = fields.get(old.number)
        where = f"{name}.{old.name} = {old.number}"
        if new is None:
            if not _reserved(now, old):
                yield f"{where} is gone; reserve its number and its name"
        elif _shape(old, [one.name for one in before.oneof_decl]) != _shape(new, oneofs):
            yield f"{where} is something else now ({new.name})"
    known = {one.number for one in before.field}
    for new in now.field:
        held = new.HasField("oneof_index") and not new.proto3_optional
        if new.number not in known and any(span.start <= new.number < span.end for span in before.reserved_range):
            yield f"{name}.{new.name} = {new.number} takes a number that was reserved"
        if new.number in known and held != _held(before, new.number):
            yield f"{name}.{new.name} went into a oneof, or left one"


def _held(message: DescriptorProto, number: int) -> bool:
    (one,) = (one for one in message.field if one.number == number)
    return one.HasField("oneof_index") and not one.proto3_optional


def _reserved(message: DescriptorProto, old: FieldDescriptorProto) -> bool:
    numbers = any(span.start <= old.number < span.end for span in message.reserved_range)
    return numbers and old.name in message.reserved_name


def _shape(one: FieldDescriptorProto, oneofs: list[str]) -> tuple[object, ...]:
    group = oneofs[one.oneof_index] if one.HasField("oneof_index") else ""
    return one.name, one.type, one.label, one.type_name, one.proto3_optional, group


def _enum(name: str, before: EnumDescriptorProto, now: EnumDescriptorProto) -> Iterator[str]:
    values = {one.number: one.name for one in now.value}
    for old in before.value:
        if values.get(old.number) != old.name:
            yield f"{name}.{old.name} = {old.number} is {values.get(old.number, 'gone')} now"


def _service(name: str, before: ServiceDescriptorProto, now: ServiceDescriptorProto) -> Iterator[str]:
    methods = {one.name: one for one in now.method}
    for old in before.method:
        new = methods.get(old.name)
        kinds = [
            (one.input_type, one.output_type, one.client_streaming, one.server_streaming) for one in (old, new) if one
        ]
        if len(set(kinds)) != 1 or new is None:
            yield f"{name}/{old.name} is gone or takes something else"
