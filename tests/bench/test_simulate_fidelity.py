"""The rows that a machine replays."""

from __future__ import annotations

import numpy as np

from tests.bench.simulate_fidelity import BLOCK, balanced


def test_any_few_blocks_of_balanced_rows_take_what_all_take() -> None:
    rng = np.random.default_rng(0)
    ms_q = np.sort(rng.lognormal(4.0, 0.5, 1937))
    rows = balanced(np.stack([ms_q, 2.0 * ms_q], axis=1), rng)
    assert len(rows) == 1937 // BLOCK * BLOCK
    assert len({tuple(row) for row in rows}) == len(rows)
    means = [rows[first : first + 2 * BLOCK, 1].mean() / (2.0 * ms_q.mean()) for first in range(0, 1700, BLOCK)]
    assert max(abs(mean - 1.0) for mean in means) < 0.03
    # The control: blocks of rows in any order stray several times as far.
    shuffled = rng.permutation(ms_q)
    stray = [shuffled[first : first + 2 * BLOCK].mean() / ms_q.mean() for first in range(0, 1700, BLOCK)]
    assert max(abs(mean - 1.0) for mean in stray) > 0.06
    # What waits together is not all alike: sums of ten rows stray as those of draws do.
    sums = np.add.reduce(rows[:1800, 0].reshape(-1, 10), axis=1)
    drawn = np.add.reduce(shuffled[:1800].reshape(-1, 10), axis=1)
    assert 0.7 < sums.std() / drawn.std() < 1.1
