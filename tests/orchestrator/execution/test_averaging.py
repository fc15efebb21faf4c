"""The most probable token of an average of which only the tops are known: right, or left open; and nodes that answer
something else than they were asked."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgewise.v1 import fleet_pb2
from orchestrator.execution.attempt import AttemptFailed
from orchestrator.execution.averaging import Averaging, ByteWay, TokenWay, Way, most_probable
from orchestrator.execution.bytewise import likeliest
from orchestrator.execution.schedule import Schedule
from orchestrator.execution.together import Ensemble, Member
from orchestrator.types import AttemptRecord, Delta, Energy, Provenance

WEIGHTS = [0.5, 0.3, 0.2]


def distribution(rng: np.random.Generator, sharp: float) -> NDArray[np.float64]:
    return rng.dirichlet(np.full(60, sharp))


def tops(probability_v: NDArray[np.float64], count: int) -> Delta:
    best = np.argsort(-probability_v, kind="stable")[:count]
    return Delta(0, "", (), top_ids=tuple(best.tolist()), top_probabilities=probability_v[best])


@given(st.integers(0, 10_000), st.sampled_from([0.02, 0.2, 1.0]), st.integers(1, 60))
def test_what_is_decided_is_what_whole_distributions_decide(seed: int, sharp: float, count: int) -> None:
    rng = np.random.default_rng(seed)
    probability_ev = [distribution(rng, sharp) for _ in WEIGHTS]
    averaged_v = sum(w * one for w, one in zip(WEIGHTS, probability_ev, strict=True))
    found = most_probable([tops(one, count) for one in probability_ev], WEIGHTS)
    assert found in (None, int(np.argmax(averaged_v)))
    if count == 60:
        assert found is not None
    whole = [Delta(0, "", (), top_probabilities=one) for one in probability_ev]
    assert most_probable(whole, WEIGHTS) == int(np.argmax(averaged_v))


def test_what_tops_cannot_decide_is_left_open() -> None:
    """Two experts that agree on a second choice which neither tells."""
    one, two = np.zeros(60), np.zeros(60)
    one[[0, 7]] = 0.52, 0.48
    two[[1, 7]] = 0.52, 0.48
    assert most_probable([tops(one, 1), tops(two, 1)], [0.5, 0.5]) is None
    assert most_probable([tops(one, 2), tops(two, 2)], [0.5, 0.5]) == 7
    mixed = [tops(one, 2), Delta(0, "", (), top_probabilities=two)]
    assert most_probable(mixed, [0.5, 0.5]) == 7


def test_an_expert_that_told_nothing_is_a_fault() -> None:
    with pytest.raises(ValueError, match="told nothing"):
        most_probable([Delta(0, "", ())], [1.0])


# ---- whole texts, by nodes that say what a test tells them to

CAP = 3
Says = Callable[[fleet_pb2.Turn], Delta]
UNKNOWN = Energy(math.nan, Provenance.UNMEASURED, "")
INVALID = AttemptRecord("x", 0, 0.0, UNKNOWN, 0.0, 0.0, "failed", "OUTPUT_INVALID")


@dataclass
class Node:
    """One in place of `Trial`: says the same of its last turn as often as it is listened to."""

    says: Says
    asked: list[fleet_pb2.Turn] = field(default_factory=list)

    def ended(self) -> AttemptFailed:
        """See `Trial`."""
        return AttemptFailed(INVALID)


class Listening:
    """In place of `Attempts`."""

    def patience_s(self, _trial: Node) -> float:
        """See `Attempts`."""
        return math.inf

    async def written(self, trial: Node, *, patience_s: float) -> Delta:
        """See `Attempts`."""
        await asyncio.sleep(0)
        return trial.says(trial.asked[-1])


async def write(way: Way, *voices: Says) -> tuple[Ensemble, list[int], list[Node]]:
    """The text of these nodes, at most so many steps long, and who was lost in it."""
    nodes, lost = [Node(says) for says in voices], list[int]()
    course: Any = None
    members = [Member(place) for place in range(len(nodes))]
    text = Ensemble(course, course, members, Schedule([1.0] * len(nodes), 1), isinstance(way, ByteWay), CAP)

    def start(_text: Ensemble, member: Member, turn: fleet_pb2.Turn) -> Any:
        node: Any = nodes[member.index]
        node.asked.append(turn)
        member.trial = node
        return node

    def lose(_text: Ensemble, member: Member, failure: AttemptFailed) -> None:
        member.lost = True
        lost.append(member.index)
        if not text.present:
            raise failure

    listening: Any = Listening()
    async with asyncio.timeout(5):
        async for _ in Averaging(listening, way, start=start, lose=lose, recount=lambda _text: None).write(text):
            pass
    return text, lost, nodes


ENDED = Delta(0, "", (), ended=True)


def told_by(probability_v: NDArray[np.float64], *, whole: bool = True, last: bool = True) -> Says:
    """An expert that always says the same; `whole` and `last` are whether it does what these fields ask."""

    def says(turn: fleet_pb2.Turn) -> Delta:
        if turn.last and last:
            return ENDED
        return Delta(0, "", (), top_probabilities=probability_v) if turn.dense and whole else tops(probability_v, 1)

    return says


def leaning(token: int) -> NDArray[np.float64]:
    """One whose most probable token alone leaves open what it makes of 7."""
    found_v = np.zeros(60)
    found_v[[token, 7]] = 0.52, 0.48
    return found_v


async def test_where_tops_leave_a_step_open_all_tell_everything_or_are_lost() -> None:
    text, lost, nodes = await write(TokenWay(1), told_by(leaning(0)), told_by(leaning(1)))
    assert (text.tokens, lost) == ([7] * CAP, [])
    assert [turn.dense for turn in nodes[0].asked] == [False, True] * CAP + [False]
    text, lost, _ = await write(TokenWay(1), told_by(leaning(0)), told_by(leaning(1), whole=False))
    assert (text.tokens, lost) == ([0] * CAP, [1])


async def test_a_text_that_ends_while_all_tell_everything_has_ended() -> None:
    def full(turn: fleet_pb2.Turn) -> Delta:
        return ENDED if turn.dense else told_by(leaning(1))(turn)

    assert (await write(TokenWay(1), told_by(leaning(0)), full))[0].tokens == []


async def test_who_goes_on_behind_the_last_step_is_lost() -> None:
    sure_v = np.eye(60)[5]
    text, lost, _ = await write(TokenWay(1), told_by(sure_v), told_by(sure_v, last=False))
    assert (text.tokens, lost) == ([5] * CAP, [1])
    with pytest.raises(AttemptFailed, match="OUTPUT_INVALID"):
        await write(TokenWay(1), told_by(sure_v, last=False))


def strings(*said: bytes) -> Delta:
    shares = np.array([1.0 / len(said)] * len(said) + [0.0])
    return Delta(0, "", (), top_probabilities=shares, strings=said)


async def test_who_goes_on_behind_the_end_in_bytes_is_lost() -> None:
    def obedient(turn: fleet_pb2.Turn) -> Delta:
        return ENDED if turn.last or b"" in turn.pieces else strings(b"")

    text, lost, _ = await write(ByteWay(4, likeliest), obedient, lambda _turn: strings(b""))
    assert (text.pieces, lost) == ([b""], [1])


@pytest.mark.parametrize(
    ("way", "good", "bad"),
    [
        (TokenWay(2), told_by(np.eye(60)[5]), lambda _: tops(np.eye(60)[5], 3)),
        (TokenWay(2), told_by(np.eye(60)[5]), lambda _: Delta(0, "", (), top_probabilities=np.eye(60)[5])),
        (TokenWay(2), told_by(np.eye(60)[5]), lambda _: Delta(0, "said again", ())),
        (
            ByteWay(2, likeliest),
            lambda turn: ENDED if turn.last else strings(b"a"),
            lambda _: strings(b"a", b"b", b"c"),
        ),
    ],
    ids=["tops", "everything", "only text", "strings"],
)
async def test_who_tells_more_than_it_was_asked_for_is_lost(way: Way, good: Says, bad: Says) -> None:
    text, lost, _ = await write(way, good, bad)
    assert (text.steps, lost) == (CAP, [1])


@pytest.mark.parametrize(("place", "width"), [(0, 59), (1, 61)], ids=["fewer", "more"])
async def test_whoever_tells_a_distribution_of_another_length_than_most_is_lost(place: int, width: int) -> None:
    says = [told_by(leaning(5)) for _ in range(3)]
    says[place] = told_by(np.eye(width)[5])
    text, lost, _ = await write(TokenWay(None), *says)
    assert (text.tokens, lost) == ([5] * CAP, [place])


async def test_the_text_may_come_before_what_is_told() -> None:
    said = iter([Delta(0, "a", ()), *[replace(tops(np.eye(60)[5], 1), text="b")] * 9])
    text, lost, _ = await write(TokenWay(1), lambda turn: ENDED if turn.last else next(said))
    assert (text.tokens, lost) == ([5] * CAP, [])
