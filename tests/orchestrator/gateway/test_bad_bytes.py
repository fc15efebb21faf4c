"""Messages that do not decode and messages that are too big, on a live gateway that lives on."""

import gc
import random

import grpc
import psutil
import pytest

from tests.fakes.live import Live
from tests.orchestrator.gateway.calls import digit, infer, library_refusal, raw, refusal, tensor

MEBIBYTE = 1 << 20
ROUNDS, REFUSALS = 5, 25
SECRET = "secret-input-x7"


# ---- what does not decode


def truncated() -> bytes:
    return digit(request_id=SECRET).SerializeToString()[:-3]


def random_bytes() -> bytes:
    return b"\xff" + random.Random(4).randbytes(200)


def nested(depth: int = 200) -> bytes:
    """Unknown groups, one in the other."""
    return b"\x7b" * depth + b"\x7c" * depth


@pytest.mark.parametrize(
    "data",
    [
        b"\x00",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        random_bytes(),
        truncated(),
        b"\x12\x06\xff\xfe\xfd\xc0\xaf\x80",
        b"\x12\x03\xed\xa0\x80",
        nested(),
        b"\x0a\xff\xff\xff\xff\x07abc",
    ],
    ids=["tag 0", "long varint", "random", "truncated", "not UTF-8", "surrogate", "nested", "length"],
)
async def test_what_does_not_decode_is_malformed(house: Live, data: bytes) -> None:
    await refusal(raw(house, data), "MALFORMED_MESSAGE", secrets=[SECRET])


async def test_a_thousand_random_messages_are_refused_or_answered_and_never_unknown(house: Live) -> None:
    rng = random.Random(20)
    good = bytearray(digit().SerializeToString())
    codes = set()
    for _ in range(1000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            await raw(house, bytes(data[: rng.randint(1, len(data))] if rng.random() < 0.3 else data))
        except grpc.aio.AioRpcError as error:
            codes.add(error.code())
    assert codes <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION}
    assert grpc.StatusCode.INVALID_ARGUMENT in codes


@pytest.mark.parametrize(
    ("data", "field"),
    [
        # Field 2 (task) as a varint, field 99 as text: both are unknown, hence no task.
        (b"\x10\x05", "task"),
        (b"\x9a\x06\x03abc", "task"),
        (b"", "task"),
        # A task, and field 4 (inputs) as a varint.
        (b"\x12\x06digits\x20\x01", "inputs"),
    ],
)
async def test_a_wrong_wire_type_is_a_missing_field(house: Live, data: bytes, field: str) -> None:
    found = await refusal(raw(house, data), "FIELD_REQUIRED")
    assert found.field == field


# ---- sizes


async def test_a_message_beyond_the_limit(house: Live) -> None:
    big = digit(inputs=[tensor(data=bytes(5 * MEBIBYTE))])
    await library_refusal(infer(house, big), grpc.StatusCode.RESOURCE_EXHAUSTED)


async def test_a_message_within_the_limit_is_looked_at(house: Live) -> None:
    await refusal(infer(house, digit(inputs=[tensor(data=bytes(3 * MEBIBYTE))])), "SHAPE_MISMATCH")


async def test_a_compressed_bomb(house: Live) -> None:
    bomb = digit(inputs=[tensor(data=bytes(24 * MEBIBYTE))])
    call = infer(house, bomb, compression=grpc.Compression.Gzip)
    await library_refusal(call, grpc.StatusCode.RESOURCE_EXHAUSTED)


async def test_refusals_leave_no_memory_behind(house: Live) -> None:
    """The client's own buffers count as well: both ends live in this process. What allocators keep for later fills up
    once; what is left behind grows with every round.
    """
    memory = psutil.Process().memory_info
    big = digit(inputs=[tensor(data=bytes(3 * MEBIBYTE))])
    huge = digit(inputs=[tensor(shape=[2**62])])
    grown_bytes = []
    for _ in range(ROUNDS):
        before_bytes = memory().rss
        for request in (big, huge) * REFUSALS:
            await refusal(infer(house, request), "SHAPE_MISMATCH")
        # What failed calls refer to in circles is freed only now and then.
        gc.collect()
        grown_bytes.append(memory().rss - before_bytes)
    assert min(grown_bytes) <= 3 * MEBIBYTE * REFUSALS / 4, grown_bytes


@pytest.mark.parametrize(
    "metadata",
    [(("x-big", "a" * 20_000),), tuple((f"x-{number}", "abcdefgh") for number in range(10_000))],
    ids=["one long", "many"],
)
async def test_headers_beyond_16_kib(house: Live, metadata: tuple[tuple[str, str], ...]) -> None:
    await library_refusal(infer(house, digit(), metadata=metadata), grpc.StatusCode.RESOURCE_EXHAUSTED)
