"""A generated table: two cheap models that are good at different things, a dear one that is good at both."""

from __future__ import annotations

import numpy as np

from optimizer.study.table import Table
from tests.optimizer.gate.toy import prompts, qualities


def toy_table(count: int = 300, *, seed: int = 0) -> Table:
    """Adder and poet at 1 J, giant at 10 J."""
    texts, tasks, kinds = prompts(count, seed=seed)
    quality_of = qualities(kinds, seed=seed + 1)
    joules_qm = np.tile([1.0, 10.0, 1.1], (count, 1))
    names = ("adder", "giant", "poet")
    quality_qm = np.column_stack([quality_of[name] for name in names])
    return Table(tuple(texts), tuple(tasks), names, quality_qm, joules_qm, joules_qm * 100.0)
