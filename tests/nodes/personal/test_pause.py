"""Trainings stand still while the node serves, at once, and end all the same."""

from __future__ import annotations

import asyncio
import signal
import sys
import time

import pytest

from nodes.personal.pause import LOOK_S, QUIET_S, SLICE_EVERY_S, SLICE_S, Pause

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="NOT RUN: this system cannot stop a process")


class FakeGuest:
    def __init__(self) -> None:
        self.returncode: int | None = None
        self.runs = True

    def send_signal(self, number: int) -> None:
        self.runs = number == signal.SIGCONT


class Scene:
    """A guest, a node and a clock."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.busy = False
        self.guest = FakeGuest()
        self.pause = Pause(lambda: self.busy, clock=lambda: self.now_s)
        self.ran_s = 0.0

    def pass_s(self, seconds: float, *, working: bool = False) -> None:
        """Let time pass, with work coming all the time or none."""
        until_s = self.now_s + seconds
        while self.now_s < until_s - 1e-9:
            self.now_s += LOOK_S
            self.ran_s += LOOK_S * self.guest.runs
            if working:
                self.pause.heard()
            self.pause.look(self.guest)


def test_a_guest_runs_while_nothing_comes() -> None:
    scene = Scene()
    scene.pass_s(10.0)
    assert scene.ran_s == pytest.approx(10.0)


def test_it_goes_on_after_a_quiet_moment() -> None:
    scene = Scene()
    scene.pass_s(1.0, working=True)
    assert not scene.guest.runs
    scene.pass_s(QUIET_S - 2 * LOOK_S)
    assert not scene.guest.runs
    scene.pass_s(4 * LOOK_S)
    assert scene.guest.runs


def test_work_that_lasts_keeps_it_stopped() -> None:
    scene = Scene()
    scene.busy = True
    scene.pass_s(5.0)
    assert not scene.guest.runs
    scene.busy = False
    scene.pass_s(LOOK_S)
    assert scene.guest.runs


def test_under_work_without_end_it_gets_a_hundredth_at_most_and_more_than_nothing() -> None:
    scene = Scene()
    scene.pass_s(1.0, working=True)
    scene.ran_s = 0.0
    scene.pass_s(20 * SLICE_EVERY_S, working=True)
    share = scene.ran_s / (20 * SLICE_EVERY_S)
    assert 0.5 * SLICE_S / SLICE_EVERY_S < share <= 0.0101


async def _read_all(stream: asyncio.StreamReader) -> None:
    while await stream.readline():
        pass


async def test_a_real_process_stands_still_at_once_goes_on_and_dies_while_it_stands() -> None:
    counting = "import time\nwhile True:\n    print(1, flush=True)\n    time.sleep(0.01)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", counting, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    pause = Pause(lambda: False)
    accompanying = asyncio.create_task(pause.accompany(process))
    await process.stdout.readline()
    pause.heard()
    with pytest.raises(TimeoutError):
        # What was printed before it stopped comes at once, then nothing.
        await asyncio.wait_for(_read_all(process.stdout), 0.4 * QUIET_S)
    started_s = time.monotonic()
    await process.stdout.readline()
    assert time.monotonic() - started_s < 10.0
    pause.heard()
    process.kill()
    await asyncio.wait_for(asyncio.gather(process.wait(), accompanying), 5.0)
