"""Replies are JSON whatever they hold."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from orchestrator.door.exchange import dump
from orchestrator.types import Provenance


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.parametrize(
    "value",
    [
        {"text": 'é\n"\u2028\U0001f600', "none": None, "no": False, "small": 1e-300, "long": 0.1 + 0.2},
        {"beyond 64 bits": 2**70, "negative": -(2**63)},
        nested(300),
    ],
)
def test_what_is_written_is_read_again(value: Any) -> None:
    assert json.loads(dump(value)) == value


def test_numbers_of_arrays_and_words_of_ours_are_plain() -> None:
    told = {"a": np.float64(0.5), "b": np.int64(3), "c": np.bool_(True), "d": Provenance.MODELLED, "e": (1, 2)}
    assert json.loads(dump(told)) == {"a": 0.5, "b": 3, "c": True, "d": "modelled", "e": [1, 2]}


def test_what_is_no_number_is_null_and_never_what_cannot_be_read() -> None:
    assert dump([math.nan, math.inf, -math.inf]) == b"[null,null,null]"
    with pytest.raises(ValueError, match="JSON"):
        dump([2**70, math.nan])
