"""Operating points of pruned experts: the share of its filters' activations that one keeps."""

from __future__ import annotations

import re

# Of everything that is not pruned.
WHOLE = 1.0
_VARIANT = re.compile(r"mass-(0\.\d+|1(?:\.0+)?)")


def mass_of(variant: str) -> float:
    """The mass that a variant names (``mass-0.6``), or that of something whole."""
    found = _VARIANT.fullmatch(variant)
    return float(found[1]) if found else WHOLE
