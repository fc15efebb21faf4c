from __future__ import annotations

from nodes.engines.crashes import CrashLog, CrashPolicy

POLICY = CrashPolicy(first_delay_s=0.2, delay_cap_s=1.0, window_s=300.0, quarantine_after=3)


def test_the_first_restart_is_at_once_then_delays_double_up_to_the_cap() -> None:
    crashes = CrashLog(POLICY)
    delays_s = []
    for second in range(6):
        crashes.record(float(second), ())
        delays_s.append(crashes.delay_s(float(second)))
    assert delays_s == [0.0, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_three_crashes_of_the_same_model_quarantine_it_and_only_it() -> None:
    crashes = CrashLog(POLICY)
    assert crashes.record(0.0, {"a", "b"}) == frozenset()
    assert crashes.record(1.0, {"a"}) == frozenset()
    assert crashes.record(2.0, {"a", "b"}) == {"a"}


def test_crashes_outside_the_window_are_forgotten() -> None:
    crashes = CrashLog(POLICY)
    crashes.record(0.0, {"a"})
    crashes.record(1.0, {"a"})
    assert crashes.record(400.0, {"a"}) == frozenset()
    assert crashes.delay_s(400.0) == 0.0
