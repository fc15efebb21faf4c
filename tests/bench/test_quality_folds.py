"""What the benchmark of quality reads is there, for every expert that it judges."""

from __future__ import annotations

import numpy as np

from tests.bench.quality_folds import load_folds


def test_every_expert_has_answers_from_fits_that_had_not_seen_the_digit() -> None:
    folds = load_folds()
    assert len(folds.experts) >= 5
    assert folds.outer_eqc.shape[:2] == (len(folds.experts), len(folds.labels_q))
    assert (np.diff(folds.macs_e) >= 0.0).all()
