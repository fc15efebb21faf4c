"""Many callers, one transaction: results to whom they belong, failures to all, nothing lost on the way out."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.store.contract import Desk
from orchestrator.store.errors import StoreFailed, StoreFull
from orchestrator.store.memory import MemoryDesk
from orchestrator.store.records import Quota
from orchestrator.store.service import APART_S, PROMPT_S, WINDOW, GroupCommitStore, InlineStore, Promptness
from orchestrator.store.sqlite import SqliteDesk
from tests.faults.power import FragileDisk


class SlowDesk(MemoryDesk):
    """Commits when it is let."""

    def __init__(self) -> None:
        super().__init__(undo=True)
        self.gate = threading.Semaphore(0)
        self.commits = 0
        self.error: Exception | None = None
        self.closed = False

    def commit(self) -> None:
        self.gate.acquire()
        self.commits += 1
        if self.error is not None:
            raise self.error
        super().commit()

    def close(self) -> None:
        self.closed = True


def putting(number: int) -> Callable[[Desk], int]:
    def step(desk: Desk) -> int:
        desk.put_quota(f"key:{number}", Quota(day_j=float(number)))
        return number

    return step


async def test_steps_that_come_during_a_commit_share_the_next() -> None:
    desk = SlowDesk()
    store = GroupCommitStore(desk)
    first = store.run(lambda d: 0)
    rest = [store.run(putting(n)) for n in range(1, 20)]
    desk.gate.release(9)
    assert [await first, *await asyncio.gather(*rest)] == list(range(20))
    assert desk.commits <= 3
    await store.close()
    assert desk.closed


@pytest.mark.parametrize("in_place", [False, True])
async def test_while_others_run_steps_share_transactions(in_place: bool) -> None:
    store = GroupCommitStore(MemoryDesk(undo=True), in_place=in_place)
    count = 20
    running = [store.run(putting(number), others=count - 1 - number) for number in range(count)]
    assert await asyncio.gather(*running) == list(range(count))
    # The first, which nobody preceded, and the others together as soon as the last has come; a thread may be late
    # for the first.
    assert store.commits <= 2
    await store.close()


@pytest.mark.parametrize("in_place", [False, True])
async def test_who_runs_alone_waits_for_nobody(in_place: bool) -> None:
    store = GroupCommitStore(MemoryDesk(undo=True), in_place=in_place)
    for number in range(20):
        running = store.run(putting(number))
        # Handed over at once; the control is the test of those that wait, below.
        assert store._gathering is None
        assert await running == number
    assert store.commits == 20
    await store.close()


async def test_others_that_do_not_come_are_waited_for_only_so_long() -> None:
    store = GroupCommitStore(MemoryDesk(undo=True), in_place=True)
    async with asyncio.timeout(1.0):
        assert await store.run(putting(1), others=1000) == 1
        assert await store.run(putting(2), others=1000) == 2
    await store.close()


@pytest.mark.parametrize("others", [1, 1000])
async def test_whoever_ends_last_takes_along_all_that_wait(others: int) -> None:
    store = GroupCommitStore(MemoryDesk(undo=True), in_place=True)
    await store.run(putting(0), others=others)
    store._handed_over_s = asyncio.get_running_loop().time() + 60.0
    waiting = store.run(putting(1), others=others)
    timer = store._gathering
    assert timer is not None
    assert timer.when() - store._handed_over_s == pytest.approx(APART_S)
    assert await store.run(putting(2)) == 2
    assert (waiting.done(), timer.cancelled(), store.commits) == (True, True, 2)
    await store.close()


async def test_who_else_is_told_is_told_once_and_before_the_result() -> None:
    told: list[object] = []
    desk = SlowDesk()
    store = GroupCommitStore(desk)
    left = store.run(putting(1), told=told.append)
    left.cancel()
    kept = store.run(putting(2), told=lambda error: told.append((error, kept.done())))
    desk.gate.release(2)
    assert await kept == 2
    assert told == [None, (None, False)]
    desk.error = StoreFull()
    desk.gate.release(1)
    with pytest.raises(StoreFull):
        await store.run(putting(3), told=told.append)
    assert told[2:] == [desk.error]
    desk.error = None
    desk.gate.release(9)
    await store.close()
    with pytest.raises(StoreFailed):
        await store.run(putting(4), told=told.append)
    assert isinstance(told[3], StoreFailed)


async def test_closing_hands_over_what_waits_for_others() -> None:
    store = GroupCommitStore(MemoryDesk(undo=True))
    first, waiting = store.run(putting(0)), store.run(putting(1), others=1000)
    await store.close()
    assert (await first, waiting.done(), waiting.result()) == (0, True, 1)


async def test_prompt_transactions_run_in_place_and_long_ones_aside() -> None:
    store = GroupCommitStore(MemoryDesk(undo=True), in_place=True)
    here = threading.get_ident()
    assert await store.run(lambda _: threading.get_ident()) == here
    aside = store.run(lambda _: threading.get_ident(), aside=True)
    # Whatever comes before the thread has answered keeps its place behind it.
    behind = store.run(lambda _: threading.get_ident())
    assert here not in {await aside, await behind}
    assert await store.run(lambda _: threading.get_ident()) == here
    await store.close()


async def test_a_disk_that_is_slow_blocks_nobody_but_those_who_wait_for_it() -> None:
    class Dragging(MemoryDesk):
        def commit(self) -> None:
            time.sleep(2 * PROMPT_S)
            super().commit()

    store = GroupCommitStore(Dragging(undo=True), in_place=True)
    here = threading.get_ident()
    threads = [await store.run(lambda _: threading.get_ident()) for _ in range(WINDOW + 4)]
    assert set(threads[:WINDOW]) == {here}
    assert here not in threads[WINDOW:]
    await store.close()


def test_a_slow_disk_is_tried_again_after_pauses_that_grow() -> None:
    prompt, now_s = Promptness(), 0.0
    pauses = []
    for _ in range(8):
        while prompt.at(now_s):
            prompt.took(1.0, now_s)
        since_s = now_s
        while not prompt.at(now_s):
            now_s += 1.0
        pauses.append(now_s - since_s)
    assert pauses == [10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 640.0]


def test_a_busy_processor_is_no_slow_disk() -> None:
    prompt = Promptness()
    for number in range(100):
        prompt.took((4 if number % 4 else 0.1) * PROMPT_S, float(number))
        assert prompt.at(float(number))


def test_a_disk_that_hangs_now_and_then_is_slow() -> None:
    prompt = Promptness()
    for number in range(WINDOW):
        prompt.took(1.0 if number == 3 else 0.1 * PROMPT_S, float(number))
    assert not prompt.at(float(WINDOW))


async def test_nothing_is_answered_before_it_is_kept() -> None:
    desk = SlowDesk()
    store = GroupCommitStore(desk)
    waiting = store.run(lambda d: d.put_quota("fleet", Quota()))
    done, _ = await asyncio.wait({waiting}, timeout=0.05)
    assert not done
    desk.gate.release(9)
    await waiting
    await store.close()


async def test_a_full_disk_fails_one_batch_and_the_next_may_succeed() -> None:
    desk = SlowDesk()
    store = GroupCommitStore(desk)
    desk.gate.release(9)
    desk.error = StoreFull()
    with pytest.raises(StoreFull):
        await store.run(lambda d: d.put_quota("fleet", Quota()))
    desk.error = None
    assert await store.run(lambda d: dict(d.quotas())) == {}
    await store.close()


async def test_after_a_failure_nothing_more_is_taken() -> None:
    desk = SlowDesk()
    store = GroupCommitStore(desk)
    desk.gate.release(9)
    desk.error = StoreFailed()
    with pytest.raises(StoreFailed):
        await store.run(lambda d: 1)
    desk.error = None
    with pytest.raises(StoreFailed):
        await store.run(lambda d: 1)
    assert desk.commits == 1
    await store.close()


async def test_a_step_that_breaks_is_a_failure_of_the_store() -> None:
    store = InlineStore(MemoryDesk(undo=True))
    with pytest.raises(StoreFailed):
        await store.run(lambda d: 1 // 0)


async def test_a_caller_that_left_does_not_take_its_step_back() -> None:
    desk = SlowDesk()
    store = GroupCommitStore(desk)
    left = store.run(lambda d: d.put_quota("fleet", Quota(day_j=1.0)))
    left.cancel()
    desk.gate.release(9)
    assert await store.run(lambda d: dict(d.quotas())) == {"fleet": Quota(day_j=1.0)}
    await store.close()


async def test_closing_finishes_what_was_begun_and_refuses_what_comes_after(tmp_path: Path) -> None:
    store = GroupCommitStore(SqliteDesk(tmp_path / "ledger.db"))
    waiting = [store.run(putting(n)) for n in range(50)]
    await store.close()
    assert await asyncio.gather(*waiting) == list(range(50))
    with pytest.raises(StoreFailed):
        await store.run(lambda d: 1)
    desk = SqliteDesk(tmp_path / "ledger.db")
    assert len(desk.quotas()) == 50
    desk.close()


async def test_a_disk_that_breaks_stops_the_store() -> None:
    disk = FragileDisk()
    desk = SqliteDesk(Path("ledger.db"), vfs=disk.name)
    store = GroupCommitStore(desk)
    await store.run(lambda d: d.put_quota("fleet", Quota(day_j=1.0)))
    disk.broken = True
    with pytest.raises(StoreFailed):
        await store.run(lambda d: d.put_quota("fleet", Quota(day_j=2.0)))
    disk.broken = False
    with pytest.raises(StoreFailed):
        await store.run(lambda d: d.put_quota("fleet", Quota(day_j=3.0)))
    await store.close()
    disk.lose_power(random.Random(0), abandon=[])
