"""Golden vectors of the gate's last steps: ``python -m tests.kernels.golden_gate`` writes ``data/gate.json`` again.

Computed with 50 decimal digits from the definitions alone, by nothing that the tested implementations use.
`test_gate` holds every implementation to them, wherever it lives: `kernels.gate`, the writer of texts on nodes and the
gateway's fusion of answers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal, getcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).parent / "data" / "gate.json"
DIGITS = 50
# experts, k, vocabulary, how far scores lie apart
SHAPES = ((1, 1, 3, 1.0), (2, 1, 5, 4.0), (4, 2, 17, 1.0), (5, 5, 9, 30.0), (8, 3, 64, 8.0))

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Golden:
    """One case.

    Attributes:
        score_e, logit_ev: What goes in, exact in 32 bits.
        weight_e: Softmax over the k largest scores, 0 for the rest.
        mixed_v: Logarithm of the experts' distributions' average by these weights.
    """

    k: int
    score_e: Floats
    logit_ev: Floats
    weight_e: Floats
    mixed_v: Floats


def golden() -> list[Golden]:
    """All committed cases."""
    return [
        Golden(case["k"], *(np.array(case[name]) for name in ("score_e", "logit_ev", "weight_e", "mixed_v")))
        for case in json.loads(FILE.read_text())
    ]


def softmax(values: list[Decimal]) -> list[Decimal]:
    """By its definition; 50 digits need no shifting."""
    raised = [value.exp() for value in values]
    return [value / sum(raised) for value in raised]


def case(experts: int, k: int, vocabulary: int, spread: float) -> dict[str, Any]:
    """Inputs drawn once, outputs computed."""
    chance = np.random.default_rng(experts)
    score_e = (spread * chance.standard_normal(experts)).astype(np.float32)
    if experts > k:
        score_e[-1] = score_e[0]  # Equal scores: the first is taken.
    logit_ev = (spread * chance.standard_normal((experts, vocabulary))).astype(np.float32)
    best = sorted(range(experts), key=lambda e: (-score_e[e], e))[:k]
    weight_e = [Decimal(0)] * experts
    for e, weight in zip(best, softmax([Decimal(float(score_e[e])) for e in best]), strict=True):
        weight_e[e] = weight
    said = [softmax([Decimal(float(value)) for value in logit_v]) for logit_v in logit_ev]
    mixed = [sum((w * p[v] for w, p in zip(weight_e, said, strict=True)), Decimal(0)).ln() for v in range(vocabulary)]
    return {
        "k": k,
        "score_e": [float(value) for value in score_e],
        "logit_ev": [[float(value) for value in row] for row in logit_ev],
        "weight_e": [float(value) for value in weight_e],
        "mixed_v": [float(value) for value in mixed],
    }


if __name__ == "__main__":
    getcontext().prec = DIGITS
    FILE.write_text("[\n" + ",\n".join(json.dumps(case(*shape)) for shape in SHAPES) + "\n]\n")
