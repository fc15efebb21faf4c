"""The life of a correction over real processes: kept sealed, learned, served, refused to others, forgotten."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.demo.writer import Writer
from nodes.zoo.catalog import load_catalog
from orchestrator.client import Budget, Client, Generated, Message
from orchestrator.errors import RequestError
from tests.fakes.processes import Fleet, NodePlan

pytestmark = pytest.mark.system

PATIENT = Budget(max_latency_ms=5000.0)
WRITER = Writer(slant=0.5, rotation=-0.2, width=0.8, habits={7: "bar", 4: "mirror"})
CORRECTED = 40
UNSEALED = (sys.executable, "-m", "tests.fakes.unsealed_node")
CANARY_USER = "canary-user-name"
CANARY = (
    np.frombuffer(b"canary-5f3a91c7e2d84b06-of-a-user" * 8, np.uint8)[:64].astype(np.float32).reshape(1, 8, 8) / 255.0
)
SECRETS = [CANARY.astype(np.float32).tobytes(), CANARY_USER.encode()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("personal")


@pytest.fixture(scope="module")
def fleet(folder: Path) -> Iterator[Fleet]:
    flags = ("--profiling-s", "0.1", "--personal", str(folder / "users"), "--personal-expert", "digits-lenet5")
    home = NodePlan("home", "laptop-cpu", ("digits-lenet5",), (*flags, "--personal-day-j", "0"))
    (folder / "fleet").mkdir()
    with pytest.MonkeyPatch.context() as patch, Fleet(folder / "fleet") as fleet:
        # What is freed is overwritten at once, so that a look into a process's memory shows what it holds, not residue.
        patch.setenv("PYTHONMALLOC", "malloc")
        patch.setenv("MALLOC_PERTURB_", "165")
        patch.setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")
        yield fleet.start(home, NodePlan("other", "rtx-4090", ("digits-linear", "digits-wide")))


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("personal-texts")


@pytest.fixture(scope="module")
def texts(text_folder: Path) -> Iterator[Fleet]:
    flags = ("--profiling-s", "0.1", "--personal", str(text_folder / "users"), "--personal-day-j", "0")
    writer = NodePlan("writer", "laptop-cpu", ("skills-dates",), flags)
    (text_folder / "fleet").mkdir()
    with Fleet(text_folder / "fleet") as fleet:
        yield fleet.start(writer, NodePlan("stranger", "laptop-cpu", ("skills-arithmetic",)))


@pytest.fixture
def client(fleet: Fleet) -> Iterator[Client]:
    with fleet.client() as client:
        yield client


@pytest.fixture(scope="module")
def written() -> tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, Any]]:
    held_out = load_catalog().held_out
    return WRITER.write(held_out.inputs, held_out.labels_n.astype(np.int64)), held_out.labels_n


def _right(client: Client, written: Any, rows: range, user: str | None) -> float:
    answers = [client.infer(written[0][n : n + 1], budget=PATIENT, user=user) for n in rows]
    return float(np.mean([a.label == str(written[1][n]) for a, n in zip(answers, rows, strict=True)]))


def test_a_user_is_learned_served_and_forgotten(client: Client, written: Any, folder: Path) -> None:
    held = range(CORRECTED, CORRECTED + 70)
    before = _right(client, written, held, None)
    for row in range(CORRECTED):
        answer = client.infer(written[0][row : row + 1], budget=PATIENT, user="ada")
        status = client.correct(answer.request_id, str(written[1][row]))
    assert status.corrections == CORRECTED
    assert status.tier == "instant"
    assert status.local_fraction > status.global_fraction
    answer = client.infer(written[0][:1], budget=PATIENT, user="ada")
    why = client.explain(answer.request_id)
    assert "overlay, outside certificate" in why.routing.overlay
    assert f"version {status.version}" in why.routing.overlay
    assert why.routing.certificate.status == "none"
    after = _right(client, written, held, "ada")
    assert after > before + 0.02
    forgotten = client.personal("ada", "forget")
    assert forgotten.state == "forgotten"
    assert not list((folder / "users").glob("*/key"))
    answer = client.infer(written[0][:1], budget=PATIENT, user="ada")
    assert answer.routing.overlay == ""


def test_corrections_come_once_and_only_for_users(client: Client, written: Any) -> None:
    nobody = client.infer(written[0][:1], budget=PATIENT)
    with pytest.raises(RequestError, match="remembered") as refused:
        client.correct(nobody.request_id, "1")
    assert refused.value.reason == "FEEDBACK_EXPIRED"
    somebody = client.infer(written[0][:1], budget=PATIENT, user="once")
    with pytest.raises(RequestError) as refused:
        client.correct(somebody.request_id, "no such label")
    assert refused.value.reason == "FIELD_OUT_OF_RANGE"
    client.correct(somebody.request_id, str(written[1][0]))
    with pytest.raises(RequestError) as refused:
        client.correct(somebody.request_id, str(written[1][0]))
    assert refused.value.reason == "FEEDBACK_EXPIRED"


def test_requests_that_ran_elsewhere_are_kept_at_home(client: Client, written: Any) -> None:
    answer = client.infer(written[0][:1], budget=PATIENT, user="bob", expert="digits-wide")
    assert answer.routing.attempts[0].arm.endswith("@other")
    assert client.correct(answer.request_id, str(written[1][0])).node == "home"


def test_nothing_of_a_user_is_on_disk_or_in_logs_in_the_clear(client: Client, folder: Path, fleet: Fleet) -> None:
    plant(client, request_id="known-to-the-disk-77b0")
    assert scan(folder, SECRETS) == []
    # The control: the scan sees what the gateway does write of a request, in its database and its log.
    kept = {file.name for file in scan(folder, [b"known-to-the-disk-77b0"])}
    assert any(name.endswith("gateway.log") for name in kept)
    assert any(".db" in name or name.endswith("-wal") for name in kept), kept
    client.personal(CANARY_USER, "forget")
    assert scan(folder, SECRETS) == []


def test_the_scan_notices_a_node_that_does_not_seal(tmp_path: Path) -> None:
    """The control: the same fleet, sealing switched off on its node, and the same picture."""
    users = tmp_path / "users"
    flags = ("--profiling-s", "0.1", "--personal", str(users), "--personal-expert", "digits-lenet5")
    plan = NodePlan("home", "laptop-cpu", ("digits-lenet5",), (*flags, "--personal-day-j", "0"))
    (tmp_path / "fleet").mkdir()
    with Fleet(tmp_path / "fleet") as fleet:
        fleet.start_gateway()
        fleet.start_process("home", [*UNSEALED, *plan.arguments(fleet.address), "--log", "json"])
        fleet.wait_ready()
        with fleet.client() as client:
            plant(client, request_id="not-sealed")
            found = scan(tmp_path, SECRETS)
            client.personal(CANARY_USER, "forget")
            after = scan(tmp_path, SECRETS)
    # One input waits, one was corrected; all of it lies with the user, and nothing beside it even here.
    assert len(found) >= 2
    assert all(file.is_relative_to(users) for file in found)
    assert after == []


def plant(client: Client, *, request_id: str) -> None:
    """A user's picture that was corrected, and the same one waiting for it."""
    answer = client.infer(CANARY, budget=PATIENT, user=CANARY_USER, request_id=request_id)
    client.correct(answer.request_id, "3")
    assert client.infer(CANARY, budget=PATIENT, user=CANARY_USER).request_id
    # What is kept is written after the answer; a further correction waits for it.
    assert client.personal(CANARY_USER, "status").corrections == 1


def test_a_users_texts_are_kept_corrected_and_forgotten(texts: Fleet, text_folder: Path) -> None:
    """Through the gateway: the home node keeps the question, wherever it ran, and the wanted text; nobody else does."""
    question, wanted = "What is the date 3 days after March 5? canary-91c7e2d8", "March/8 canary-0be1"
    with texts.client() as client:
        answers = []
        for expert in ("skills-dates", "skills-arithmetic"):
            ends = [
                end
                for end in client.generate(
                    [Message("user", question)], task="skills", budget=PATIENT, expert=expert, user="ada"
                )
                if isinstance(end, Generated)
            ]
            answers.append(ends[0])
            status = client.correct(ends[0].request_id, wanted)
        assert [end.routing.attempts[0].arm.split("@")[1] for end in answers] == ["writer", "stranger"]
        assert (status.node, status.expert, status.corrections) == ("writer", "skills-dates", 2)
        with pytest.raises(RequestError) as refused:
            client.correct(answers[0].request_id, wanted)
        assert refused.value.reason == "FEEDBACK_EXPIRED"
        with pytest.raises(RequestError) as refused:
            client.correct(answers[0].request_id, "x" * 501)
        assert refused.value.reason == "FIELD_OUT_OF_RANGE"
        assert scan(text_folder, [question.encode(), wanted.encode()]) == []
        assert client.personal("ada", "forget", task="skills").state == "forgotten"
        assert not list((text_folder / "users").rglob("key"))


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="NOT RUN: reading a process's memory needs Linux")
def test_the_gateway_holds_no_payload_of_a_user_in_memory(client: Client, fleet: Fleet) -> None:
    """A picture and its correction have passed; a few calls later nothing of them is in the gateway's memory."""
    assert fleet.gateway is not None
    canary = np.frombuffer(b"canary-0d91b7e6a4c35f28-of-memory" * 8, np.uint8)[:64].astype(np.float32)
    image = (canary / 255.0).reshape(1, 8, 8)
    name = "known-to-the-gateway-4c1d"
    answer = client.infer(image, budget=PATIENT, user="ada", request_id=name)
    client.correct(answer.request_id, "3")
    secrets = [image.tobytes()[64:192], name.encode()]
    # What gRPC read last stays in the 8 KiB that it fills next: three times as much passes through them.
    for row in range(60):
        client.infer(np.full((1, 8, 8), row / 60.0, np.float32), budget=PATIENT, user="ada")
    held = memory_holds(fleet.gateway.pid, secrets)
    # The control: the scan sees what the gateway does keep, which is the request's id.
    assert held == [False, True]


def memory_holds(pid: int, secrets: list[bytes]) -> list[bool]:
    """Which of these are in a process's writable memory."""
    found = [False] * len(secrets)
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            place, rights, *_ = line.split()
            if not rights.startswith("rw"):
                continue
            start, end = (int(edge, 16) for edge in place.split("-"))
            try:
                memory.seek(start)
                data = memory.read(end - start)
            except (OSError, ValueError, OverflowError):
                continue  # Not everything that is mapped can be read.
            found = [was or secret in data for was, secret in zip(found, secrets, strict=True)]
    return found


def scan(folder: Path, secrets: list[bytes]) -> list[Path]:
    """Files below a folder that hold one of these in the clear, or its first half, or gzipped."""
    found = []
    for file in folder.rglob("*"):
        # Files come and go while the fleet works.
        try:
            data = file.read_bytes() if file.is_file() else b""
        except FileNotFoundError:
            continue
        if data[:2] == b"\x1f\x8b":
            data += gzip.decompress(data)
        if any(secret in data or secret[: max(len(secret) // 2, 8)] in data for secret in secrets):
            found.append(file)
    return found
