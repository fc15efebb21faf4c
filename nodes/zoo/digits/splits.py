"""Which digit belongs to which fold.

Shapes: n rows, h and w pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nodes.zoo.digits.settings import FOLDS, HELD_OUT_FOLD

MAX_INK = 16


@dataclass(frozen=True, eq=False)
class Digits:
    """All 1,797 digits that scikit-learn bundles, in its order.

    Attributes:
        images_nhw: float32 (n, 8, 8); 0 is background, 1 is ink; exact multiples of 1/16.
        labels_n: int64 (n,), 0 to 9.
        fold_n: uint8 (n,), the fold that a row belongs to; fold 0 is held out from everything that ships.
    """

    images_nhw: NDArray[np.float32]
    labels_n: NDArray[np.int64]
    fold_n: NDArray[np.uint8]

    @property
    def held_out_n(self) -> NDArray[np.bool_]:
        """True where no shipped expert was trained on the row."""
        held_out_n: NDArray[np.bool_] = self.fold_n == HELD_OUT_FOLD
        return held_out_n


def load_digits_with_folds() -> Digits:
    """Load the digits and deal them into five stratified folds.

    Source: UCI ML hand-written digits, E. Alpaydin and C. Kaynak 1998, as bundled with scikit-learn.
    """
    from sklearn.datasets import load_digits  # only training needs scikit-learn
    from sklearn.model_selection import StratifiedKFold

    pixels_nd, labels_n = load_digits(return_X_y=True)
    fold_n = np.zeros(len(labels_n), dtype=np.uint8)
    dealer = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    for fold, (_, rows) in enumerate(dealer.split(pixels_nd, labels_n)):
        fold_n[rows] = fold
    images_nhw = (pixels_nd / MAX_INK).astype(np.float32).reshape(-1, 8, 8)
    return Digits(images_nhw, labels_n.astype(np.int64), fold_n)
