"""A user on a node: learned from corrections, isolated, sealed, forgotten, bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from nodes.agent import messages as m
from nodes.agent.desk import Desk
from nodes.agent.wire import encode
from nodes.energy.meters.unmeasured import UnmeasuredMeter
from nodes.engines.contract import Job
from nodes.inventory import load_inventory
from nodes.personal.keeping import HOUR_S, Bounds, sweep
from nodes.personal.office import Office
from nodes.personal.sealing import owner_mark
from tests.nodes.personal.host import ADA, EXPERT, HostEngine, PlainSeal, ask, correct, open_office, teach, written

MALLORY = m.Owner("tenant-b", "ada")
HELD = range(60, 160)


async def _right(office: Office, owner: m.Owner = ADA) -> float:
    images, labels_n = written()
    return float(np.mean([(await ask(office, images[n], f"h{n}", owner))[0] == labels_n[n] for n in HELD]))


async def test_forty_corrections_make_a_better_expert_for_this_user_alone(tmp_path: Path) -> None:
    office = await open_office(tmp_path)
    before = await _right(office)
    report = await teach(office, range(40))
    assert report.status.tier == "instant"
    assert report.status.local_fraction > report.status.global_fraction
    assert report.status.generic_drop_fraction <= 0.001
    assert await _right(office) > before + 0.02
    # The same user name under another tenant is somebody else.
    assert await _right(office, MALLORY) == pytest.approx(before)
    assert (await office.follow(m.PersonalOrder(2, MALLORY, "digits", "status"))).status.version == 0
    await office.close()


async def test_what_was_learned_survives_a_restart_of_the_node(tmp_path: Path) -> None:
    office = await open_office(tmp_path)
    report = await teach(office, range(30))
    after = await _right(office)
    await office.close()
    again = await open_office(tmp_path)
    status = (await again.follow(m.PersonalOrder(1, ADA, "digits", "status"))).status
    assert (status.version, status.corrections) == (report.status.version, 30)
    assert await _right(again) == pytest.approx(after)
    await again.close()


async def test_wrong_labels_do_not_make_a_worse_expert(tmp_path: Path) -> None:
    """One label in eight is wrong: whoever is promoted is still no worse than the global expert."""
    office = await open_office(tmp_path)
    before = await _right(office)
    images, labels_n = written()
    for row in range(48):
        await ask(office, images[row], f"r{row}")
        wrong = row % 8 == 0
        await correct(office, f"r{row}", int(labels_n[row] + wrong) % 10)
    assert await _right(office) >= before
    await office.close()


@pytest.mark.parametrize("rows", [range(1), range(2)])
async def test_one_or_two_samples_do_no_harm(tmp_path: Path, rows: range) -> None:
    office = await open_office(tmp_path)
    before = await _right(office)
    await teach(office, rows)
    assert await _right(office) >= before - 0.01
    await office.close()


async def test_a_user_of_one_class_loses_little_elsewhere(tmp_path: Path) -> None:
    office = await open_office(tmp_path)
    images, labels_n = written()
    others = [n for n in HELD if labels_n[n] != 7]
    sevens = np.flatnonzero(labels_n == 7)

    async def right(rows: Iterable[int]) -> float:
        return float(np.mean([(await ask(office, images[n], f"h{n}"))[0] == labels_n[n] for n in rows]))

    before = await right(others), await right(sevens[12:])
    for row in sevens[:12]:
        await ask(office, images[row], f"r{row}")
        report = await correct(office, f"r{row}", 7)
    assert report.status.generic_drop_fraction <= 0.001
    assert await right(sevens[12:]) >= before[1]
    assert await right(others) >= before[0] - 0.05
    await office.close()


async def test_feedback_expires_with_its_input(tmp_path: Path) -> None:
    now = [1e9]
    office = await open_office(tmp_path, now_unix_s=lambda: now[0], bounds=Bounds(keep_s=HOUR_S))
    await ask(office, written()[0][0], "r0")
    now[0] += HOUR_S + 1.0
    assert (await correct(office, "r0", 3)).reason == "FEEDBACK_EXPIRED"
    assert (await correct(office, "never-asked", 3)).reason == "FEEDBACK_EXPIRED"
    await ask(office, written()[0][0], "r1")
    assert (await correct(office, "r1", 3)).reason == ""
    assert (await correct(office, "r1", 3)).reason == "FEEDBACK_EXPIRED"
    await office.close()


async def test_a_correction_on_the_heels_of_its_answer_finds_its_input(tmp_path: Path) -> None:
    office = await open_office(tmp_path)
    for number in range(10):
        job = Job(office.arm.key, {"image": written()[0][number : number + 1]})
        await office.infer(ADA, f"q{number}", job)
        assert (await correct(office, f"q{number}", 3)).reason == ""
    keeping = asyncio.ensure_future(office.keep(MALLORY, "k", written()[0][:1]))
    await asyncio.sleep(0)
    assert (await correct(office, "k", 3, MALLORY)).reason == ""
    await keeping
    await office.close()


async def test_another_tenant_cannot_correct_an_input_that_it_did_not_send(tmp_path: Path) -> None:
    office = await open_office(tmp_path)
    await ask(office, written()[0][0], "r0")
    assert (await correct(office, "r0", 3, MALLORY)).reason == "FEEDBACK_EXPIRED"
    await office.close()


async def test_rollback_goes_back_one_version_and_then_to_the_global_expert(tmp_path: Path) -> None:
    office = await open_office(tmp_path)
    version = (await teach(office, range(40))).status.version
    assert version >= 2
    back = m.PersonalOrder(3, ADA, "digits", "rollback")
    assert (await office.follow(back)).status.version == version - 1
    assert (await office.follow(back)).status.version == 0
    await office.close()


CANARY = np.linspace(0.1234, 0.9876, 64, dtype=np.float32).reshape(8, 8)


def _scan(folder: Path) -> list[str]:
    """Files that hold the canary, or a row of it, in the clear."""
    row = CANARY[3].tobytes()
    return [file.name for file in folder.rglob("*") if file.is_file() and row in file.read_bytes()]


def _everything(folder: Path) -> list[Path]:
    return list(folder.rglob("*"))


def _waiting(folder: Path) -> list[Path]:
    return list(folder.glob("*/inputs/*"))


async def _plant(office: Office) -> None:
    await ask(office, CANARY, "c0")
    await ask(office, CANARY, "c1")
    assert (await correct(office, "c1", 5)).reason == ""


async def test_nothing_of_a_user_is_on_disk_in_the_clear_before_or_after_forgetting(tmp_path: Path) -> None:
    office = await open_office(tmp_path)
    await _plant(office)
    await teach(office, range(30))
    mark = owner_mark(ADA.tenant, ADA.user)
    assert sorted(path.name for path in (tmp_path / mark).iterdir())[:2] == ["corrections", "expert"]
    assert _scan(tmp_path) == []
    assert ((tmp_path / mark / "key").stat().st_mode & 0o777) == 0o600
    assert (await office.follow(m.PersonalOrder(9, ADA, "digits", "forget"))).status.state == "forgotten"
    assert _everything(tmp_path) == []
    await office.close()


async def test_the_scan_notices_a_node_that_does_not_seal(tmp_path: Path) -> None:
    office = await open_office(tmp_path, make_seal=PlainSeal)
    await _plant(office)
    assert len(_scan(tmp_path)) >= 2
    await office.close()


async def test_a_copied_folder_is_of_no_use_to_another_user(tmp_path: Path) -> None:
    office = await open_office(tmp_path)
    await teach(office, range(30))
    await ask(office, written()[0][0], "m0", MALLORY)
    mine, theirs = (tmp_path / owner_mark(owner.tenant, owner.user) for owner in (ADA, MALLORY))
    (theirs / "expert").write_bytes((mine / "expert").read_bytes())
    await office.close()
    again = await open_office(tmp_path)
    assert (await again.follow(m.PersonalOrder(1, MALLORY, "digits", "status"))).status.version == 0
    await again.close()


async def test_no_message_to_the_gateway_holds_input_features_or_weights(tmp_path: Path) -> None:
    """Everything that a desk sends while a user is taught and served, as bytes on the wire."""
    office = await open_office(tmp_path)
    inventory = load_inventory(None, (EXPERT,))
    sent: list[m.Event] = []

    async def send(event: m.Event) -> None:
        sent.append(event)

    engine = HostEngine()
    await engine.load(list(inventory.arms))
    desk = Desk(engine, UnmeasuredMeter(), inventory=inventory, send=send, personal=office)
    raw = m.RawTensor("image", "float32", (1, 8, 8), CANARY.tobytes())
    for number in range(6):
        desk.take(m.Work(number, f"w{number}", EXPERT, "onnx-fp32", 5_000.0, 0.0, (raw,), ADA))
        assert await desk.finish(5.0)
        await office.settled()
        desk.order(m.PersonalOrder(number, ADA, "digits", "correct", f"w{number}", "5"))
        assert await desk.finish(5.0)
    desk.order(m.Keep("k0", ADA, EXPERT, (raw,)))
    assert await desk.finish(5.0)
    reports = [event for event in sent if isinstance(event, m.PersonalReport)]
    assert [report.reason for report in reports] == [""] * 6
    bytes_sent = encode(1, 1, sent).SerializeToString()
    assert encode(1, 1, [m.Evidence("", {"x": CANARY})]).SerializeToString().find(CANARY[3].tobytes()) > 0
    seen = office.looked(ADA)
    weights = office.weights_of(ADA)
    assert seen is not None
    assert weights is not None
    for secret in (CANARY[3], CANARY[5], seen.features_nf[0][:4], seen.seen_ng[0][:4], weights[:4, 0]):
        for dtype in (np.float32, np.float64):
            assert secret.astype(dtype).tobytes() not in bytes_sent
    await office.close()


async def test_inputs_that_wait_are_bounded_in_bytes(tmp_path: Path) -> None:
    office = await open_office(tmp_path)
    for number in range(20):
        await ask(office, CANARY, f"b{number}")
    waiting = _waiting(tmp_path)
    size, now_unix_s = waiting[0].stat().st_size, waiting[0].stat().st_mtime
    left = sweep(tmp_path, Bounds(keep_s=HOUR_S, limit_bytes=5 * size), now_unix_s=now_unix_s)
    assert left <= 5 * size
    assert len(_waiting(tmp_path)) == 5
    sweep(tmp_path, Bounds(keep_s=HOUR_S), now_unix_s=now_unix_s + HOUR_S + 60.0)
    assert _waiting(tmp_path) == []
    await office.close()
