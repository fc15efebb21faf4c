from __future__ import annotations

import pytest

from nodes.compile.forms import Batches, Form, Precision, Runtime, Wish, parse_wishes
from nodes.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "wish", "variant"),
    [
        ("ort", Wish(Form(Runtime.ORT, Precision.FP32)), "ort-fp32"),
        ("int8", Wish(Form(Runtime.ORT, Precision.INT8)), "ort-int8"),
        ("digits-wide:fp16", Wish(Form(Runtime.ORT, Precision.FP16), "digits-wide"), "ort-fp16"),
        ("ort-int8@8", Wish(Form(Runtime.ORT, Precision.INT8, Batches(8, 8, 8))), "ort-int8-b8"),
        ("cuda-fp16", Wish(Form(Runtime.CUDA, Precision.FP16)), "cuda-fp16"),
        (
            "ort-tensorrt",
            Wish(Form(Runtime.ORT_TENSORRT, Precision.FP32, Batches(1, 1, 16))),
            "ort-tensorrt-fp32-b1-16",
        ),
        ("rtx-int8@1-4", Wish(Form(Runtime.RTX, Precision.INT8, Batches(1, 1, 4))), "rtx-int8-b1-4"),
    ],
)
def test_forms_are_read_and_named(text: str, wish: Wish, variant: str) -> None:
    assert parse_wishes([text]) == (wish,)
    assert wish.form is not None
    assert wish.form.variant == variant


def test_several_in_one_word_or_in_many_each_once() -> None:
    assert parse_wishes(["int8, ort", "int8"]) == parse_wishes(["int8", "ort"])
    assert parse_wishes(["auto"]) == (Wish(None),)
    assert parse_wishes([]) == ()


@pytest.mark.parametrize(
    "text", ["int4", "ort-int8@", "ort@0", "ort@4-2", "ort@x", ":int8", "tensorrt-", "fp32", "ort@9999"]
)
def test_what_is_no_form_is_refused_with_what_would_be(text: str) -> None:
    with pytest.raises(ConfigError, match="--compile"):
        parse_wishes([text])
