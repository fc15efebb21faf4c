"""A single answer stands as it is, which is what fusing it would give."""

from __future__ import annotations

import numpy as np
import pytest

from optimizer.errors import EvidenceError
from optimizer.routes.fusion import fuse
from optimizer.routes.route import Fusion, Route
from optimizer.routes.texts import Ballot


@pytest.mark.parametrize("fusion", Fusion)
@pytest.mark.parametrize("confidence", [0.0, 0.3, 1.0])
def test_one_answer_is_what_fusing_it_gives(fusion: Fusion, confidence: float) -> None:
    ballot = Ballot(Route((("a", "b"),), fusion=fusion))
    ballot.add("a", "Paris.", confidence)
    assert ballot.result() == ("a", float(fuse(ballot.route, [("a", np.array([confidence]))]).confidence))


def test_an_answer_of_somebody_else_is_no_answer() -> None:
    ballot = Ballot(Route.single("a"))
    ballot.add("b", "Paris", 0.9)
    with pytest.raises(EvidenceError):
        ballot.result()
