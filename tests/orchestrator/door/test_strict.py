"""Bodies with many numbers are read by a quick reader where it can be told that nothing is amiss, and mean the same as
to the slow one."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from orchestrator.door import strict
from orchestrator.errors import RequestError

TENSOR = b'{"inputs":[{"name":%s,"datatype":"FP32","shape":[1,3],"data":[0.5,-1,2e3]}],"parameters":{"max_mass":null}}'
KEYS = (b'"a"', b'"b"', b'"c"', b'"\\u0061"', b'"\\""', b'"\xc3\xa9"')
VALUES = (
    *(b'"a"', b'""', b'"\\n"', b'"\\""', b'"\\\\"', b'" \\" : \\" "', b'"\\u0022"', b'"\xff"', b'"\t"', b'"a'),
    *(b'"\\ud800"', b'"\\ud83d\\ude00"', b'"\\ud83d\\ud83d"', b"1", b"-0", b"-0.0", b"1.5", b"1E5", b"1e400", b"01"),
    *(b"123456789012345678901", b"18446744073709551615", b"-9223372036854775809", b"9e18", b"NaN", b"-Infinity"),
    *(b"null", b"true", b"[]", b"{}", b"[1,2.5]", b'[1,"a"]', b"[123456789012345678901]", b"[1e400,1]", b"[true,1]"),
)


def read(body: bytes, *, numbers: bool = True) -> tuple[Any, ...]:
    """What a body means, in a form in which -0.0 is not 0.0, 1 is not 1.0, and NaN is NaN."""
    try:
        value, finite = strict.parse(body, numbers=numbers)
    except RequestError as error:
        return error.reason, error.message
    return repr(value), json.dumps(value), finite


def some_value(random: random.Random, depth: int) -> bytes:
    kind = random.random()
    if depth > 3 or kind < 0.5:
        return random.choice(VALUES)
    if kind < 0.75:
        return b"[" + b",".join(some_value(random, depth + 1) for _ in range(random.randint(0, 3))) + b"]"
    return some_object(random, depth)


def some_object(random: random.Random, depth: int = 0) -> bytes:
    fields = (random.choice(KEYS) + b": " + some_value(random, depth + 1) for _ in range(random.randint(0, 3)))
    return b"{" + b",".join(fields) + b"}"


@pytest.mark.parametrize("seed", range(8))
def test_both_readers_find_the_same(seed: int) -> None:
    draw = random.Random(seed)
    bodies = []
    for _ in range(1_000):
        body = some_object(draw)
        at, odd = draw.randrange(len(body)), draw.choice((b"", b"", b'"', b"\\", b",", b" ", b"{", b"\xef\xbb\xbf"))
        bodies.append(body[:at] + odd + body[at:])
    assert 100 < sum(strict._quick(body) is not None for body in bodies) < 900, "both are looked at"
    assert [read(body) for body in bodies] == [read(body, numbers=False) for body in bodies]


@pytest.mark.parametrize("content", [b'"hello"', b'"a \\"word\\"\\n"', '"é\U0001f600"'.encode(), b'"\\u00e9"'])
def test_a_tensor_is_read_by_the_quick_one(content: bytes) -> None:
    body = TENSOR % content
    assert strict._quick(body) == json.loads(body)


@pytest.mark.parametrize("depth", [98, 99, 100, 500, 100_000])
def test_how_deep_a_body_may_be_does_not_depend_on_who_reads_it(depth: int) -> None:
    bodies = [b'{"a":' + left * depth + b"1" + right * depth + b"}" for left, right in ((b"[", b"]"), (b'{"a":', b"}"))]
    assert [read(body)[0] for body in bodies] == [read(body, numbers=False)[0] for body in bodies]


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":1}',
        b'{"a":{"b":"\\"","b":"\\""}}',
        b'{"a":"\\\\","a":"\\\\"}',
        b'{"a":[{"b":1},{"b":1,"c":"x","b":"x"}]}',
        b'{"a":1,"\\u0061":1}',
    ],
)
def test_a_key_that_comes_twice_is_seen_wherever_it_is(body: bytes) -> None:
    assert read(body)[0] == read(body, numbers=False)[0] == "DUPLICATE_KEY"
