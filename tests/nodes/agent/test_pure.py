"""Order of messages and waits before dialling again."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from nodes.agent.backoff import CAP_S, full_jitter_s
from nodes.agent.order import IncomingOrder


@given(messages=st.lists(st.tuples(st.integers(6, 8), st.integers(0, 30))))
def test_what_is_accepted_is_of_the_epoch_and_strictly_newer(messages: list[tuple[int, int]]) -> None:
    order = IncomingOrder(7, 3)
    accepted = [(epoch, sequence) for epoch, sequence in messages if order.accept(epoch, sequence)]
    sequences = [3, *(sequence for _, sequence in accepted)]
    assert all(epoch == 7 for epoch, _ in accepted)
    assert all(earlier < later for earlier, later in pairwise(sequences))
    newest = max((sequence for epoch, sequence in messages if epoch == 7), default=0)
    assert sequences[-1] == max(3, newest)


@given(failures=st.integers(0, 10_000), seed=st.integers(0, 100))
def test_waits_are_below_a_capped_doubling(failures: int, seed: int) -> None:
    wait_s = full_jitter_s(failures, random.Random(seed))
    assert 0.0 <= wait_s <= min(CAP_S, 0.2 * 2 ** min(failures, 20))


def test_jitter_uses_the_whole_range() -> None:
    rng = random.Random(0)
    waits_s = [full_jitter_s(9, rng) for _ in range(500)]
    assert min(waits_s) < 0.05
    assert 6.3 < max(waits_s) <= 7.0
