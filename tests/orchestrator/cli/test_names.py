"""Routes in few words: what all arms share is said once, what tells them apart stays."""

import pytest

from orchestrator.cli.names import short_route, sole_variant


@pytest.mark.parametrize(
    ("route", "variants", "short"),
    [
        ("a:fp32@n >0.8> b:fp32@n (product)", False, "a >0.8> b (product) @n"),
        ("a:fp32@n >0.8> b:int8@n+c:fp32@n", True, "a:fp32 >0.8> b:int8+c:fp32 @n"),
        ("a:fp32@n >0.8> b:fp32@m", False, "a@n >0.8> b@m"),
        ("a:fp32@jetson-agx-orin", False, "a @jetson-agx-orin"),
        ("", False, ""),
        ("digits-mlp then digits-wide", False, "digits-mlp then digits-wide"),
    ],
)
def test_short_route(route: str, variants: bool, short: str) -> None:
    assert short_route(route, variants=variants) == short


def test_variants_are_named_once_there_are_two() -> None:
    assert sole_variant(["a:fp32@n", "b:fp32@m >0.5> a:fp32@n"])
    assert not sole_variant(["a:fp32@n", "a:int8@n"])
