"""Whether one expert alone is the best choice, said in so many words."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from orchestrator.routing.alone import Verdict, verdict


@dataclass(frozen=True)
class Seen:
    """A candidate as explanations have it."""

    route: str
    score: float
    feasible: bool = True


LARGE, SMALL = Seen("large:v1@a", 0.70), Seen("small:v1@b", 0.65)
VOTE, CASCADE = Seen("large:v1@a+small:v1@b (vote)", 0.68), Seen("small:v1@b >0.6> large:v1@a", 0.72)
DEAR = Seen("large:v1@a+wise:v1@a (vote)", 0.99, feasible=False)


@pytest.mark.parametrize(
    ("chosen", "candidates", "expected"),
    [
        (LARGE, [LARGE, SMALL, VOTE, DEAR], Verdict(True, VOTE.route, 0.02)),
        (CASCADE, [LARGE, SMALL, VOTE, CASCADE], Verdict(False, LARGE.route, 0.02)),
        (LARGE, [LARGE, DEAR], Verdict(True, "", 0.0)),
        (VOTE, [VOTE, Seen("large:v1@a", 0.7, feasible=False)], Verdict(False, "", 0.0)),
        (SMALL, [LARGE, SMALL, CASCADE], Verdict(True, CASCADE.route, -0.07)),
        (LARGE, [LARGE, SMALL], None),
        (Seen("", 0.0), [LARGE, VOTE], None),
    ],
)
def test_one_expert_is_held_against_the_best_combination_that_fits(
    chosen: Seen, candidates: list[Seen], expected: Verdict | None
) -> None:
    found = verdict(chosen.route, candidates)
    assert (found is None) is (expected is None)
    if found is not None and expected is not None:
        assert (found.alone, found.rival) == (expected.alone, expected.rival)
        assert found.worth_more == pytest.approx(expected.worth_more)
