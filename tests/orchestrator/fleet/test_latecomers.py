"""Nodes that a gateway which was started again may expect, and what is said until they are back."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import structlog

from orchestrator.errors import EdgewiseError, RequestError
from orchestrator.fleet import latecomers as module
from orchestrator.fleet.latecomers import NOT_ANNOUNCED, RETURN_S, Latecomers
from tests.orchestrator.builders import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def file(tmp_path: Path, clock: Clock) -> Path:
    """What a gateway with two nodes left behind."""
    before = Latecomers(tmp_path / "nodes.json", clock=clock)
    await before.keep({"n1": None, "n2": None})
    await before.close(["n1", "n2"])
    # Both leave because the gateway does.
    await before.keep(())
    return tmp_path / "nodes.json"


def error(reason: str) -> EdgewiseError:
    return RequestError(reason, "No.", field="task")


@pytest.mark.parametrize("reason", sorted(NOT_ANNOUNCED))
def test_what_may_yet_come_is_worth_a_retry(file: Path, clock: Clock, reason: str) -> None:
    latecomers, unknown = Latecomers(file, clock=clock), error(reason)
    assert latecomers.instead(unknown) is unknown, "the gateway does not listen yet"
    latecomers.expect()
    clock.now_s += RETURN_S - 0.001
    told = latecomers.instead(unknown)
    assert (told.reason, told.retry_after_s, told.surface.retryable) == ("NO_NODE", 1.0, True)
    clock.now_s += 0.001
    assert latecomers.instead(unknown) is unknown


def test_once_all_are_back_what_nobody_has_is_unknown(file: Path, clock: Clock) -> None:
    latecomers, unknown = Latecomers(file, clock=clock), error("TASK_NOT_FOUND")
    latecomers.expect()
    for node, reason in (("n3", "NO_NODE"), ("n1", "NO_NODE"), ("n2", "TASK_NOT_FOUND")):
        latecomers.came(node)
        assert latecomers.instead(unknown).reason == reason


def test_other_errors_stay_as_they_are(file: Path, clock: Clock) -> None:
    latecomers = Latecomers(file, clock=clock)
    latecomers.expect()
    for reason in ("SHAPE_MISMATCH", "NODE_NOT_FOUND", "CAPABILITY_MISSING", "PATH_NOT_FOUND"):
        assert latecomers.instead(same := error(reason)) is same


async def test_who_is_on_the_way_is_still_expected_after_a_second_restart(file: Path, clock: Clock) -> None:
    second = Latecomers(file, clock=clock)
    second.expect()
    second.came("n1")
    await second.keep(["n1"])
    assert set(third_after(file, clock)) == {"n1", "n2"}
    # Who did not come in time is not expected by the one after.
    clock.now_s += RETURN_S
    await second.keep(["n1"])
    assert set(third_after(file, clock)) == {"n1"}


def third_after(file: Path, clock: Clock) -> set[str]:
    third = Latecomers(file, clock=clock)
    third.expect()
    return set(third.expected)


@pytest.mark.parametrize("content", ["", "{", "3", "null", "\ud800"])
def test_a_file_that_cannot_be_read_expects_nobody(tmp_path: Path, content: str) -> None:
    file = tmp_path / "nodes.json"
    file.write_bytes(content.encode(errors="surrogatepass"))
    latecomers = Latecomers(file)
    latecomers.expect()
    assert not latecomers.expected


async def test_what_cannot_be_written_stops_nothing_and_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "nodes.tmp").mkdir()
    latecomers = Latecomers(tmp_path / "nodes.json")
    with structlog.testing.capture_logs() as lines:
        await latecomers.keep(["n1"])
        await latecomers.keep(["n1"])
    assert [line["event"] for line in lines] == ["fleet.nodes_not_kept"], "once, not twice a second"
    assert not (tmp_path / "nodes.json").exists()
    (tmp_path / "nodes.tmp").rmdir()
    await latecomers.keep(["n1"])
    assert (tmp_path / "nodes.json").exists()


async def test_a_disk_that_hangs_holds_up_the_end_for_a_moment_alone(tmp_path: Path, monkeypatch: Any) -> None:
    hanging = threading.Event()
    monkeypatch.setattr(module, "save_json", lambda file, names: hanging.wait(30.0))
    monkeypatch.setattr(module, "CLOSE_S", 0.05)
    latecomers = Latecomers(tmp_path / "nodes.json")
    async with asyncio.timeout(10.0):
        await latecomers.close(["n1"])
        await latecomers.keep(["n1"])
    hanging.set()
