"""Names of arms and routes as people read them; programs get them in full through ``-o json``.

An arm is ``expert:variant@node``, and a route writes several of them: on a screen the node that all of them share is
said once, and a variant is left out where the experts have no other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_NAME = r"[a-z0-9][a-z0-9._-]*"
_ARM = re.compile(rf"({_NAME}):({_NAME})@({_NAME})")


def sole_variant(texts: Iterable[str]) -> bool:
    """Whether no expert in these texts has two variants, so that naming them tells nothing."""
    pairs = {(match[1], match[2]) for text in texts for match in _ARM.finditer(text)}
    return len(pairs) == len({expert for expert, _ in pairs})


def short_route(route: str, *, variants: bool) -> str:
    """A route in fewer words.

    Args:
        route: Text with arms in it, such as ``a:fp32@n >0.8> b:fp32@n (product)``.
        variants: Whether variants are worth naming.
    """
    shared = {match[3] for match in _ARM.finditer(route)}

    def rename(match: re.Match[str]) -> str:
        expert = f"{match[1]}:{match[2]}" if variants else match[1]
        return expert if len(shared) == 1 else f"{expert}@{match[3]}"

    named = _ARM.sub(rename, route)
    return f"{named} @{shared.pop()}" if len(shared) == 1 else named
