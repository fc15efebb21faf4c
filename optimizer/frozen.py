"""Values that are made for every request and that nobody changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(kind: type[T]) -> type[T]:
    """A class as `dataclass(frozen=True)` makes it, but that only the type checker keeps others from writing to it.

    A frozen dataclass is made by one call per field, an ordinary one is not. Fields are slots: what is derived from
    them cannot be cached beside them. Equality, hash, order of fields, `replace` and pickling are those of a frozen
    dataclass.
    """
    return dataclass(slots=True, unsafe_hash=True)(kind)
