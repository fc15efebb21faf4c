"""Bookkeeping of sleepers on a clock of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from optimizer.selection.power import Power
from orchestrator.config import Sleep
from orchestrator.fleet.dormitory import LATE_FACTOR, LATE_S, Dormitory
from orchestrator.sleep.packet import magic_packet
from orchestrator.sleep.types import SleepOffer
from orchestrator.sleep.vigil import guarded, powers_of
from orchestrator.types import NodeHello, Provenance
from tests.fakes.sleeper import MAC, magic
from tests.orchestrator.builders import Clock, a_fleet, a_hello, joined

OFFER = SleepOffer(MAC, "127.0.0.1:9", idle_w=20.0, sleep_w=2.0, wake_j=50.0, wake_s=10.0)
HELLO = NodeHello("n", "0", 1, "x", True, "none", Provenance.UNMEASURED, (), (), 1, 1, 0, sleep=OFFER)
POWER = Power(20.0, 2.0, 50.0, 10.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def dormitory(clock: Clock) -> Dormitory:
    return Dormitory(clock)


def test_what_a_rest_took(dormitory: Dormitory, clock: Clock) -> None:
    dormitory.fell_asleep(HELLO)
    clock.now_s += 100.0
    dormitory.woken("n")
    assert dormitory.state("n") == "waking"
    clock.now_s += 12.0
    dormitory.joined("n")
    (rest,) = dormitory.rested
    assert (rest.slept_s, rest.took_s, rest.energy_j) == (100.0, 12.0, 2.0 * 100.0 + 50.0)
    # It took longer than announced, which counts from now on.
    dormitory.fell_asleep(HELLO)
    assert dormitory.wake_s("n") == 12.0


def test_falling_asleep_takes_its_own_watts(dormitory: Dormitory, clock: Clock) -> None:
    falls = replace(HELLO, sleep=replace(OFFER, suspend_s=8.0, suspend_w=30.0))
    for slept_s, energy_j in ((100.0, 30.0 * 8.0 + 2.0 * 92.0), (5.0, 30.0 * 5.0)):
        dormitory.fell_asleep(falls)
        clock.now_s += slept_s
        dormitory.joined("n")
        assert dormitory.rested.pop().energy_j == energy_j


def test_what_draining_took_is_remembered(dormitory: Dormitory) -> None:
    assert dormitory.drain_s("n") == 0.0
    for drained_s in (2.0, None, 4.0):
        dormitory.fell_asleep(HELLO, drained_s=drained_s)
    assert dormitory.drain_s("n") == 3.0


def test_a_turn_counts_what_was_seen(clock: Clock) -> None:
    fleet = a_fleet(clock=clock)
    offer = replace(OFFER, suspend_s=5.0, suspend_w=30.0)
    session = joined(fleet, replace(a_hello("n"), sleep=offer))
    assert powers_of(fleet)["n"] == Power(20.0, 2.0, 50.0, 10.0, fall_j=150.0, fall_s=5.0)
    fleet.drain(session)
    assert powers_of(fleet) == {}
    clock.now_s += 3.0
    session.sleeping = True
    fleet.leave(session)
    fleet.dormitory.woken("n")
    clock.now_s += 12.0
    # Three seconds of finishing at idle watts; waking took longer than announced.
    seen = Power(20.0, 2.0, 50.0, 10.0, awake=False, fall_j=20.0 * 3.0 + 150.0, fall_s=8.0)
    assert powers_of(fleet)["n"] == seen
    joined(fleet, replace(a_hello("n"), sleep=offer))
    assert powers_of(fleet)["n"] == replace(seen, awake=True, wake_s=12.0)


def test_one_that_comes_by_itself_was_not_woken(dormitory: Dormitory, clock: Clock) -> None:
    dormitory.fell_asleep(HELLO)
    clock.now_s += 5.0
    dormitory.joined("n")
    assert [(rest.took_s, rest.energy_j) for rest in dormitory.rested] == [(None, 10.0)]


def test_time_left_counts_down_once_it_is_being_woken(dormitory: Dormitory, clock: Clock) -> None:
    dormitory.fell_asleep(HELLO)
    clock.now_s += 4.0
    assert dormitory.left_s("n") == 10.0
    dormitory.woken("n")
    clock.now_s += 4.0
    dormitory.woken("n")
    assert dormitory.left_s("n") == 6.0


def test_one_that_does_not_wake_counts_as_gone_and_can_be_woken_again(dormitory: Dormitory, clock: Clock) -> None:
    dormitory.fell_asleep(HELLO)
    dormitory.woken("n")
    clock.now_s += LATE_FACTOR * 10.0 + LATE_S
    assert dormitory.late() == []
    clock.now_s += 0.1
    assert (dormitory.late(), dormitory.late(), dormitory.state("n")) == (["n"], [], None)
    dormitory.woken("n")
    assert dormitory.state("n") == "waking"


def test_without_an_offer_nobody_sleeps(dormitory: Dormitory) -> None:
    dormitory.fell_asleep(replace(HELLO, sleep=None))
    assert dormitory.state("n") is None


def test_nothing_is_undone_at_once(dormitory: Dormitory, clock: Clock) -> None:
    config = Sleep(min_awake_s=300.0, min_asleep_s=120.0)
    nobody, itself = frozenset[str](), frozenset({"n"})
    dormitory.joined("n")
    clock.now_s += 299.0
    assert guarded(nobody, {"n": POWER}, dormitory, config).sleep == ()
    clock.now_s += 1.0
    assert guarded(nobody, {"n": POWER}, dormitory, config).sleep == ("n",)
    dormitory.fell_asleep(HELLO)
    asleep = {"n": replace(POWER, awake=False)}
    clock.now_s += 119.0
    assert guarded(itself, asleep, dormitory, config).wake == ()
    clock.now_s += 1.0
    assert guarded(itself, asleep, dormitory, config).wake == ("n",)


def test_a_node_that_a_plan_needs_does_not_sleep(dormitory: Dormitory, clock: Clock) -> None:
    dormitory.joined("n")
    config, nobody = Sleep(min_awake_s=0.0), frozenset[str]()
    assert guarded(nobody, {"n": POWER}, dormitory, config, needed=frozenset({"n"})).sleep == ()
    assert guarded(nobody, {"n": POWER}, dormitory, config).sleep == ("n",)


def test_the_packet_is_that_of_the_standard() -> None:
    assert magic_packet(MAC) == magic(MAC)
    assert len(magic_packet(MAC)) == 102
    with pytest.raises(ValueError, match="aa:bb"):
        magic_packet("02:00")
