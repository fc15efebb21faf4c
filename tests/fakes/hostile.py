"""What strangers push: a corpus of bad models, each with the reason it must be refused for.

A case is the files of a model, as bytes by path; `expert.json` is added where a case does not bring its own. Payloads
that could run would leave the file `MARK`, and those that could read would read `CANARY`: tests watch both.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from tests.fakes import hostile_onnx as bad
from tests.fakes.pushed import safetensors

# These are found out by running them, or by what the node knows of its tasks.
BY_RUNNING = {
    "D20 unknown operator",
    "D20 other output",
    "D23 10^11 zeros",
    "D23 loops for ever",
    "D25 answers NaN",
    "D25 wrong shape",
}
GOOD_CARD = {"name": "guest", "task": "digits", "macs": 640, "quality": {"accuracy_fraction": 0.5, "samples": 10}}
ONNX, EVIDENCE = "model.onnx", "evidence.safetensors"


@dataclass(frozen=True)
class Case:
    """One bad model.

    Attributes:
        name: The row of the bad-input matrix, and what it is.
        files: Bytes by path.
        reason: What it must be refused for.
        card: Of its expert, None where the files bring one.
    """

    name: str
    files: dict[str, bytes]
    reason: str
    card: dict[str, object] | None = field(default_factory=lambda: dict(GOOD_CARD))

    def content(self) -> dict[str, bytes]:
        """All files, the card included."""
        return self.files if self.card is None else {**self.files, "expert.json": json.dumps(self.card).encode()}


def pickle_that_runs(mark: str, protocol: int = 4) -> bytes:
    """A pickle that makes a file when it is loaded; written by hand, since nothing here imports pickle."""
    head = bytes([0x80, protocol]) if protocol >= 2 else b""
    return head + b"cos\nsystem\n(S'touch " + mark.encode() + b"'\ntR."


def cases(canary: str, mark: str) -> Iterator[Case]:
    """The whole corpus.

    Args:
        canary: Path of a file outside every model, which nobody may read.
        mark: Path of a file that only code from a model would make.
    """
    yield from _damaged()
    yield from _escapes(canary)
    yield from _operators_and_sizes()
    yield from _evidence()
    yield from _foreign(mark)
    yield from _cards()


def _one(name: str, content: bytes, reason: str) -> Case:
    return Case(name, {ONNX: content}, reason)


def _damaged() -> Iterator[Case]:
    good = bad.linear()
    noise = np.random.default_rng(7).bytes(4096)
    yield _one("D20 random", noise, "ARTIFACT_INVALID")
    yield _one("D20 truncated", good[:-100], "ARTIFACT_INVALID")
    yield _one("D20 half", good[: len(good) // 2], "ARTIFACT_INVALID")
    yield _one("D20 no graph", b"\x08\x09", "ARTIFACT_INVALID")
    yield _one("D20 zeros", b"\0" * 64, "ARTIFACT_INVALID")
    yield _one("D20 unknown field", good + b"\x9a\x0c\x03abc", "ARTIFACT_INVALID")
    yield _one("D20 endless number", b"\xff" * 64, "ARTIFACT_INVALID")
    yield _one("D20 unknown operator", bad.unknown_operator(), "ARTIFACT_INVALID")
    yield _one("D20 other output", bad.other_output(), "ARTIFACT_INVALID")


def _escapes(canary: str) -> Iterator[Case]:
    places = {
        "up": "../canary.bin",
        "absolute": canary,
        "down and up": "a/../../canary.bin",
        "many up": "../" * 12 + canary.lstrip("/"),
        "backslash": "..\\canary.bin",
        "drive": "c:canary.bin",
        "proc": "/proc/self/environ",
    }
    for what, location in places.items():
        yield _one(f"D21 {what}", bad.outside(location), "ARTIFACT_PATH_ESCAPE")
    yield _one("D21 in an attribute", bad.outside_in_attribute(canary), "ARTIFACT_PATH_ESCAPE")
    yield _one("D21 not pushed", bad.outside("w.bin"), "ARTIFACT_INVALID")
    data = bad.WEIGHTS.tobytes()
    for what, entries in {
        "1 PB": {"length": str(10**15)},
        "negative length": {"length": "-1"},
        "negative offset": {"offset": "-8"},
        "offset beyond": {"offset": str(10**9)},
        "underscore": {"length": "2_560"},
        "other alphabet": {"length": "２５６０"},
        "short": {"length": "4"},
    }.items():
        yield Case(f"D22 {what}", {ONNX: bad.outside("w.bin", **entries), "w.bin": data}, "ARTIFACT_INVALID")


def _operators_and_sizes() -> Iterator[Case]:
    nan = bad.WEIGHTS.copy()
    nan[3, 3] = np.nan
    yield _one("D23 foreign operator", bad.foreign_operator(), "OP_NOT_ALLOWED")
    yield _one("D23 function", bad.function(), "OP_NOT_ALLOWED")
    yield _one("D23 100,001 nodes", bad.many_nodes(100_001), "ARTIFACT_TOO_LARGE")
    yield _one("D23 nested", bad.nested(14), "ARTIFACT_TOO_LARGE")
    yield _one("D23 2^80 elements", bad.claims(2**40, 2**40), "ARTIFACT_TOO_LARGE")
    yield _one("D23 negative size", bad.claims(64, -10), "ARTIFACT_INVALID")
    yield _one("D23 more than it holds", bad.claims(64, 10), "ARTIFACT_INVALID")
    yield _one("D23 10^11 zeros", bad.allocates(10**11), "ARTIFACT_TOO_LARGE")
    yield _one("D23 loops for ever", bad.loops(2**62), "ARTIFACT_TOO_LARGE")
    yield _one("D25 NaN in ONNX", bad.linear(nan), "WEIGHTS_NOT_FINITE")
    yield Case("D25 NaN beside ONNX", {ONNX: bad.outside("w.bin"), "w.bin": nan.tobytes()}, "WEIGHTS_NOT_FINITE")
    yield _one("D25 answers NaN", bad.answers_nan(), "WEIGHTS_NOT_FINITE")


def _evidence() -> Iterator[Case]:
    outputs = np.full((4, 10), 0.1, np.float32)
    good = safetensors({"outputs": outputs})
    size = int.from_bytes(good[:8], "little")
    head, body = json.loads(good[8 : 8 + size]), good[8 + size :]

    def file(header: object, data: bytes = body) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data

    entry = head["outputs"]
    half = {**entry, "shape": [2, 10], "data_offsets": [0, 80]}
    contents: dict[str, tuple[bytes, str]] = {
        "D24 header 2^63": (b"\xff" * 7 + b"\x7f" + body, "ARTIFACT_INVALID"),
        "D24 header 200 MB": ((200 << 20).to_bytes(8, "little") + good[8:], "ARTIFACT_INVALID"),
        "D24 header no JSON": (file(b"{" * 64), "ARTIFACT_INVALID"),
        "D24 header too deep": (file(b"[" * 100_000), "ARTIFACT_INVALID"),
        "D24 overlap": (file({"outputs": entry, "b": half}), "ARTIFACT_INVALID"),
        "D24 hole": (file({"outputs": {**half, "data_offsets": [80, 160]}}), "ARTIFACT_INVALID"),
        "D24 overflow": (file({"outputs": {**entry, "shape": [2**40, 2**40]}}), "ARTIFACT_INVALID"),
        "D24 negative": (file({"outputs": {**entry, "shape": [-4, -10]}}), "ARTIFACT_INVALID"),
        "D24 trailing": (good + b"\0", "ARTIFACT_INVALID"),
        "D24 dtype": (file({"outputs": {**entry, "dtype": "OBJECT"}}), "ARTIFACT_INVALID"),
        "D24 truncated": (good[:-1], "ARTIFACT_INVALID"),
        "D24 seven bytes": (good[:7], "ARTIFACT_INVALID"),
        "D25 duplicate key": (
            file(json.dumps({"outputs": entry})[:-1].encode() + b',"outputs":' + json.dumps(entry).encode() + b"}"),
            "ARTIFACT_INVALID",
        ),
        "D25 NaN": (safetensors({"outputs": outputs * np.nan}), "WEIGHTS_NOT_FINITE"),
        "D25 infinite": (safetensors({"outputs": outputs + np.inf}), "WEIGHTS_NOT_FINITE"),
        "D25 wrong name": (safetensors({"answers": outputs}), "ARTIFACT_INVALID"),
        "D25 wrong shape": (good, "ARTIFACT_INVALID"),
    }
    for name, (content, reason) in contents.items():
        yield Case(name, {ONNX: bad.linear(), EVIDENCE: content}, reason, {**GOOD_CARD, "evidence": EVIDENCE})


def _foreign(mark: str) -> Iterator[Case]:
    bomb = pickle_that_runs(mark)
    for protocol in (2, 3, 4, 5):
        yield _one(f"D26 pickle {protocol} as ONNX", pickle_that_runs(mark, protocol), "FORMAT_NOT_ALLOWED")
    yield _one("D26 pickle 0 as ONNX", pickle_that_runs(mark, 0), "ARTIFACT_INVALID")
    for suffix in ("pt", "pth", "pkl", "bin"):
        yield Case(f"D26 .{suffix}", {f"model.{suffix}": bomb}, "FORMAT_NOT_ALLOWED")
        yield Case(f"D26 .{suffix} beside", {ONNX: bad.linear(), f"x.{suffix}": bomb}, "FORMAT_NOT_ALLOWED")
    checkpoint = _zip({"archive/data.pkl": bomb})
    yield Case("D26 checkpoint", {"model.pt": checkpoint}, "FORMAT_NOT_ALLOWED")
    yield _one("D26 ONNX that is a zip too", _polyglot(checkpoint), "FORMAT_NOT_ALLOWED")
    yield _one("D26 program", b"\x7fELF" + b"\0" * 60, "FORMAT_NOT_ALLOWED")
    yield _one("D26 script", f"#!/bin/sh\ntouch {mark}\n".encode(), "FORMAT_NOT_ALLOWED")
    yield Case("D26 unknown file", {ONNX: bad.linear(), "plugin.so": b"\0" * 64}, "FORMAT_NOT_ALLOWED")
    yield Case("D26 no model", {"notes.txt": b"nothing"}, "FORMAT_NOT_ALLOWED")
    yield _one("D27 engine as ONNX", b"ftrt" + b"\0" * 60, "ENGINE_NOT_LOCAL")
    yield Case("D27 engine beside", {ONNX: bad.linear(), "model.engine": b"ptrt" + b"\0" * 60}, "ENGINE_NOT_LOCAL")
    yield _one("D28 zip slip", _zip({"../../../tmp/slip": b"x"}), "ARCHIVE_UNSAFE")
    yield _one("D28 zip bomb", _zip({"zeros": b"\0" * 10_000_000}), "ARCHIVE_UNSAFE")
    yield _one("D28 tar slip", _tar("../../slip"), "ARCHIVE_UNSAFE")
    yield _one("D28 gzip", gzip.compress(bad.linear()), "ARCHIVE_UNSAFE")


def _cards() -> Iterator[Case]:
    files = {ONNX: bad.linear()}
    yield Case("D33 card without a model of that name", files, "ARTIFACT_INVALID", {**GOOD_CARD, "name": "other"})
    yield Case("D33 unknown key", files, "ARTIFACT_INVALID", {**GOOD_CARD, "run": "rm"})
    yield Case("D33 file up", files, "ARTIFACT_INVALID", {**GOOD_CARD, "file": "../model.onnx"})
    yield Case("D33 variant", files, "ARTIFACT_INVALID", {**GOOD_CARD, "variant": "x;rm -rf"})
    yield Case("D8 NaN in card", {**files, "expert.json": b'{"name":"guest","macs":NaN}'}, "ARTIFACT_INVALID", None)
    deep = b'{"name":"guest","macs":' + b"[" * 20_000 + b"]" * 20_000 + b"}"
    yield Case("D3 deep card", {**files, "expert.json": deep}, "ARTIFACT_INVALID", None)
    twice = b'{"name":"guest","name":"guest","macs":1,"quality":{"accuracy_fraction":1,"samples":1}}'
    yield Case("D19 key twice", {**files, "expert.json": twice}, "ARTIFACT_INVALID", None)


def _zip(entries: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return out.getvalue()


def _polyglot(archive: bytes) -> bytes:
    """A good model whose last field, its description, is an archive: both readers are content."""
    length = len(archive)
    size = bytes([length & 0x7F | 0x80, length >> 7]) if length >= 128 else bytes([length])
    assert length < 1 << 14
    return bad.linear() + b"\x32" + size + archive


def _tar(name: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    return out.getvalue()
