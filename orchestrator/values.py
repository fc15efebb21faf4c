"""Values: nobody changes one once it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(kind: type[T]) -> type[T]:
    """A dataclass that compares and hashes as a frozen one, for what is made anew for every request.

    That nobody changes it is what the type checker sees to: where each instance sees to it, making one takes a call
    for every field.
    """
    return dataclass(unsafe_hash=True)(kind)
