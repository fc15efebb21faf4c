from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nodes.worker import frames
from nodes.worker.frames import Frame, FrameDecoder, FrameError, encode

ARRAYS = st.sampled_from(frames.DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)
MESSAGES = st.tuples(
    st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=20), max_size=3),
    st.dictionaries(st.text(max_size=8), ARRAYS, max_size=3),
)


@given(messages=st.lists(MESSAGES, min_size=1, max_size=4), cut=st.integers(1, 64))
def test_round_trip_however_the_stream_is_cut(messages: list[tuple[dict[str, Any], dict[str, Any]]], cut: int) -> None:
    stream = b"".join(encode({**header, "op": "x"}, tensors) for header, tensors in messages)
    decoder = FrameDecoder()
    got: list[Frame] = []
    for start in range(0, len(stream), cut):
        got.extend(decoder.feed(stream[start : start + cut]))
    assert decoder.pending_bytes == 0
    assert len(got) == len(messages)
    for frame, (header, tensors) in zip(got, messages, strict=True):
        header.pop("tensors", None)
        assert frame.op == "x"
        assert {key: frame.header[key] for key in header if key != "op"} == {
            key: value for key, value in header.items() if key != "op"
        }
        if tensors:
            found = frame.tensors()
            assert list(found) == list(tensors)
            for name, array in tensors.items():
                assert found[name].dtype == array.dtype
                assert found[name].shape == array.shape
                assert found[name].tobytes() == np.ascontiguousarray(array).tobytes()


def test_a_truncated_frame_gives_nothing_yet() -> None:
    data = encode({"op": "x"}, {"a": np.arange(4, dtype=np.int64)})
    decoder = FrameDecoder()
    assert list(decoder.feed(data[:-1])) == []
    assert decoder.pending_bytes == len(data) - 1
    assert [frame.op for frame in decoder.feed(data[-1:])] == ["x"]


@pytest.mark.parametrize(("head", "body"), [(frames.MAX_HEADER_BYTES + 1, 0), (1, 0), (2, frames.MAX_BODY_BYTES + 1)])
def test_lengths_over_their_caps_are_refused_before_anything_is_stored(head: int, body: int) -> None:
    with pytest.raises(FrameError):
        list(FrameDecoder().feed(struct.pack("<II", head, body)))


@pytest.mark.parametrize("raw", [b"{]", b"[1]", b"{}", b'{"op":1}', b"\xff\xfe", b"[" * 60_000])
def test_a_header_that_is_not_an_object_with_an_op_is_refused(raw: bytes) -> None:
    with pytest.raises(FrameError):
        list(FrameDecoder().feed(struct.pack("<II", len(raw), 0) + raw))


@pytest.mark.parametrize(
    "listed",
    [
        [{"name": "a", "dtype": "float32", "shape": [3]}],
        [{"name": "a", "dtype": "float32", "shape": [1]}],
        [{"name": "a", "dtype": "object", "shape": [1]}],
        [{"name": "a", "dtype": "float32", "shape": [-2]}],
        [{"name": "a", "dtype": "float32", "shape": [2**62]}],
        [{"name": "a", "dtype": "float32", "shape": [2**39, 2**39]}],
        [{"name": "a", "dtype": "float32", "shape": [True, 2]}],
        [{"name": "a", "dtype": "float32", "shape": 2}],
        [{"name": 7, "dtype": "float32", "shape": [2]}],
        [{"name": "a", "dtype": "float32", "shape": [1]}] * 2,
        [{"name": "a"}],
        ["a"],
        {"a": 1},
        [{"name": "a", "dtype": "bool", "shape": [0]}] * 65,
    ],
)
def test_a_tensor_list_that_does_not_fit_the_body_is_refused(listed: object) -> None:
    with pytest.raises(FrameError):
        Frame({"op": "x", "tensors": listed}, bytes(8)).tensors()


def test_what_is_not_carried_cannot_be_sent() -> None:
    with pytest.raises(FrameError, match="complex64"):
        encode({"op": "x"}, {"a": np.zeros(2, np.complex64)})
    with pytest.raises(FrameError, match="body"):
        encode({"op": "x"}, {"a": np.zeros(frames.MAX_BODY_BYTES + 1, np.uint8)})


def test_golden_bytes() -> None:
    data = encode({"op": "infer", "id": 1}, {"a": np.array([1.0], np.float32)})
    head = json.dumps({"op": "infer", "id": 1, "tensors": [{"name": "a", "dtype": "float32", "shape": [1]}]}).encode()
    assert data == struct.pack("<II", len(head), 4) + head + b"\x00\x00\x80\x3f"
