"""The corpus of bad models, pushed to a real agent past everything that the command line would have noticed."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from edgewise.v1 import models_pb2 as pb
from nodes.worker.lockdown import probe
from orchestrator.artifacts.types import OnNode
from orchestrator.client import Budget, Client
from orchestrator.client.models import PushedModel
from orchestrator.client.wire import Call
from orchestrator.errors import CATALOGUE, RequestError
from tests.fakes import hostile_onnx
from tests.fakes.hostile import BY_RUNNING, GOOD_CARD, ONNX, Case, cases
from tests.fakes.processes import Fleet, NodePlan
from tests.fakes.watch import Watch, available, watching

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not probe().enough, reason="not run: this kernel cannot lock strangers' models in"),
]

NODE = "laptop"
PATIENCE_S = 20.0
CANARY = b"canary-7e2d84b06-nobody-may-read-this" * 70
LONG_AGO_S = 946_684_800.0


class Target:
    """An agent, the folder that it keeps models in, and what no model may touch."""

    def __init__(self, folder: Path) -> None:
        self.store, self.canary, self.mark = folder / "store", folder / "canary.bin", folder / "mark"
        self.fleet = Fleet(folder / "fleet")
        flags = ("--profiling-s", "0.1", "--model-store", str(self.store), "--model-run-s", "1")
        self.plan = NodePlan(NODE, "laptop-cpu", ("digits-linear",), (*flags, "--model-quota-mib", "64"))
        self.watch: Watch | None = None

    def lay_canary(self) -> None:
        self.canary.write_bytes(CANARY)
        os.utime(self.canary, (LONG_AGO_S, LONG_AGO_S))

    @property
    def canary_was_read(self) -> bool:
        return self.canary.stat().st_atime != LONG_AGO_S

    @property
    def pid(self) -> int:
        return self.fleet.agents[NODE].pid


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "fleet").mkdir()
    target = Target(folder)
    target.lay_canary()
    with target.fleet as fleet:
        fleet.start(target.plan)
        if not available():
            yield target
            return
        with watching(target.pid, folder / "strace.txt") as target.watch:
            yield target


@pytest.fixture(scope="module")
def client(target: Target) -> Iterator[Client]:
    with target.fleet.client() as client:
        yield client


def message(content: dict[str, bytes], name: str = "guest") -> pb.ModelManifest:
    files = [
        pb.ModelFile(path=path, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        for path, data in content.items()
    ]
    return pb.ModelManifest(name=name, task="digits", files=files)


def push_raw(client: Client, content: dict[str, bytes], name: str = "guest") -> OnNode:
    """Push without the command line's own checks; how the model stands on the node when that is settled."""
    manifest = message(content, name)
    by_digest = {hashlib.sha256(data).hexdigest(): data for data in content.values()}
    for blob in call(client, "PushModel", pb.PushModelRequest(manifest=manifest, nodes=[NODE])).missing:
        data = by_digest[blob.sha256]
        for at in range(0, len(data), 1 << 20):
            client.put_chunk(blob.sha256, len(data), at, data[at : at + (1 << 20)])
    call(client, "PushModel", pb.PushModelRequest(manifest=manifest, nodes=[NODE]))
    return settled(client, name)


def call(client: Client, method: str, request: pb.PushModelRequest) -> pb.PushModelResponse:
    def same(reply: pb.PushModelResponse) -> pb.PushModelResponse:
        return reply

    return client._run(Call(f"/edgewise.v1.Models/{method}", request, pb.PushModelResponse, same))


def settled(client: Client, name: str) -> OnNode:
    until_s = time.monotonic() + PATIENCE_S
    while (model := found(client, name)).under_way:
        assert time.monotonic() < until_s, model
        time.sleep(0.02)
    return model.on_nodes[0]


def found(client: Client, name: str) -> PushedModel:
    return next(model for model in client.pushed_models() if model.name == name)


def good(name: str = "guest", *, weights_times: float = 1.0) -> dict[str, bytes]:
    model = hostile_onnx.linear(hostile_onnx.WEIGHTS * weights_times)
    return Case("good", {ONNX: model}, "", {**GOOD_CARD, "name": name}).content()


ALL = [case.name for case in cases("/canary.bin", "/mark")]
# `make faults` pushes them all; here one of each row of the matrix, and those that only running shows.
FEW = [*{name.partition(" ")[0]: name for name in ALL}.values(), "D21 absolute", "D26 checkpoint", *sorted(BY_RUNNING)]
NAMES = ALL if os.environ.get("EDGEWISE_WHOLE_CORPUS") else sorted(set(FEW))


@pytest.mark.parametrize("name", NAMES)
def test_every_bad_model_is_refused_for_its_reason(target: Target, client: Client, name: str) -> None:
    pid = target.pid
    case = next(case for case in cases(str(target.canary), str(target.mark)) if case.name == name)
    on_node = push_raw(client, case.content())
    assert (on_node.state, on_node.reason) == ("refused", case.reason), on_node.message
    assert case.reason in CATALOGUE
    assert (target.pid, target.fleet.agents[NODE].alive) == (pid, True)
    assert not target.mark.exists()
    assert not target.canary_was_read


def test_names_and_paths_are_refused_by_the_gateway(client: Client) -> None:
    bad_paths = {
        "../x": "ARTIFACT_PATH_ESCAPE",
        "/etc/passwd": "ARTIFACT_PATH_ESCAPE",
        "a/../../x": "ARTIFACT_PATH_ESCAPE",
        "a\\..\\x": "ARTIFACT_PATH_ESCAPE",
        "x;rm": "NAME_INVALID",
        "%00": "NAME_INVALID",
        "a\0b": "NAME_INVALID",
        "con": "NAME_INVALID",
        "nul.onnx": "NAME_INVALID",
        "a//b": "NAME_INVALID",
        "x" * 10_000: "NAME_INVALID",
        "mоdel.onnx": "NAME_INVALID",  # the second letter is Cyrillic
        "": "NAME_INVALID",
    }
    for path, reason in bad_paths.items():
        assert refused(client, pb.PushModelRequest(manifest=message({path: b"x"}))).reason == reason, path
    for name in ("../x", "x;rm", "%00", "X", "x" * 10_000, "mоdel", ""):
        assert refused(client, pb.PushModelRequest(manifest=message({"a": b"x"}, name))).reason == "NAME_INVALID"
    twice = message({"A.bin": b"x", "a.bin": b"y"})
    assert refused(client, pb.PushModelRequest(manifest=twice)).reason == "ARTIFACT_INVALID"
    for digest in ("", "0" * 63, "0" * 65, "g" * 64, "../" + "0" * 61, "０" * 64):
        broken = message({"a": b"x"})
        broken.files[0].sha256 = digest
        assert refused(client, pb.PushModelRequest(manifest=broken)).reason == "DIGEST_INVALID", digest


def refused(client: Client, request: pb.PushModelRequest) -> RequestError:
    with pytest.raises(RequestError) as error:
        call(client, "PushModel", request)
    assert error.value.surface.grpc_code is not grpc.StatusCode.UNKNOWN
    return error.value


def test_uploads_are_held_to_their_size_offset_and_digest(client: Client) -> None:
    data = b"the right bytes"
    sha256 = hashlib.sha256(data).hexdigest()

    def put(offset: int, piece: bytes, size_bytes: int = len(data)) -> RequestError:
        with pytest.raises(RequestError) as error:
            client.put_chunk(sha256, size_bytes, offset, piece)
        return error.value

    assert put(3, data[3:]).surface.grpc_code is grpc.StatusCode.OUT_OF_RANGE
    assert client.put_chunk(sha256, len(data), 0, data[:4]) == 4
    wrong = put(2, data[2:])
    assert (wrong.reason, wrong.metadata["offset"]) == ("UPLOAD_OFFSET", "4")
    assert put(4, data).reason == "ARTIFACT_TOO_LARGE"
    assert put(4, data[4:], size_bytes=99).reason == "FIELD_OUT_OF_RANGE"
    assert put(4, b"x" * (len(data) - 4)).reason == "DIGEST_INVALID"
    # Nothing is left of it, and the right bytes are taken.
    assert client.put_chunk(sha256, len(data), 0, data) == len(data)
    big = hashlib.sha256(b"big").hexdigest()
    with pytest.raises(RequestError) as error:
        client.put_chunk(big, 1 << 39, 0, b"x")
    assert (error.value.reason, error.value.surface.http_status) == ("ARTIFACT_TOO_LARGE", 413)


def test_a_model_over_the_nodes_quota_is_refused_there(client: Client) -> None:
    content = {**good(), "w.bin": bytes(65 << 20)}
    assert push_raw(client, content).reason == "ARTIFACT_TOO_LARGE"


def test_a_refused_model_is_not_tried_again(target: Target, client: Client) -> None:
    case = next(case for case in cases("/c", "/m") if case.name == "D23 loops for ever")
    push_raw(client, good())
    started_s = time.monotonic()
    assert push_raw(client, case.content()).reason == case.reason
    # A rehearsal of this one takes longer than the second after which it is ended.
    assert time.monotonic() - started_s < 1.0


def test_after_all_that_a_good_model_is_served_and_only_our_processes_ran(target: Target, client: Client) -> None:
    assert push_raw(client, good()).state == "serving"
    answer = client.infer(hostile_onnx.WEIGHTS[:, :1].reshape(1, 8, 8), expert="guest", budget=Budget(None, 5000.0))
    assert answer.routing.attempts[0].arm == f"guest:onnx@{NODE}"
    children = target.fleet.agents[NODE].children()
    assert len(children) == 2  # its own engine, and that of guests
    assert all("nodes.worker" in " ".join(child.cmdline()) for child in children)
    assert CANARY not in b"".join(file.read_bytes() for file in target.store.rglob("*") if file.is_file())


def test_control_reading_the_canary_would_have_been_noticed(target: Target, tmp_path: Path) -> None:
    assert target.canary_was_read is False
    assert target.canary.read_bytes() == CANARY
    if target.canary.stat().st_atime == LONG_AGO_S:
        pytest.skip("not run: this file system keeps no times of access")
    target.lay_canary()


def test_nothing_outside_was_opened_and_no_other_program_ran(target: Target) -> None:
    """Last: the trace of everything that the agent and its processes did above."""
    if target.watch is None:
        pytest.skip("not run: no strace here")
    seen = target.watch.seen()
    assert any(path.startswith(str(target.store)) for path in seen.opened), "the trace saw nothing"
    assert seen.outside(str(target.store)) == set()
    assert {Path(program).resolve() for program in seen.became} == {Path(sys.executable).resolve()}
