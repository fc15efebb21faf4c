"""A head that comes again on a kept connection is not parsed again: what is answered is the same as if it were."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
from typing import Any

import pytest

from orchestrator.door import server as module
from orchestrator.door.head import TURN
from orchestrator.door.server import HttpServer
from orchestrator.door.turn import Turn

HEAD = b"POST /a%%20b?q HTTP/1.1\r\nHost: x\r\nContent-Length: %b\r\nAuthorization: one\r\n\r\n"
PLAIN = HEAD % b"5" + b"hello"


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Whoever sends here does not wait."""

    resume_reading = pause_reading


class Client:
    """A connection to a server that says what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[dict[str, Any], bytes]] = []
        self.transport = Transport()
        with socket.socket() as listener:
            self.connection = module._Connection(HttpServer(self._app, listener))
        self.connection.connection_made(self.transport)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body, more = body + message["body"], message["more_body"]
        self.asked.append(({name: value for name, value in scope.items() if name != TURN}, body))
        scope["state"]["mine"] = scope["path_params"] = {}
        scope["headers"] = list(scope["headers"])
        await scope[TURN].answer(200, f"x-asked: {len(self.asked)}\r\n", body[:3])

    async def send(self, *reads: bytes, turns: int = 10) -> Client:
        """Send so many bytes at a time; `turns` of the loop are waited for after each."""
        for data in reads:
            if not self.transport.closed:
                self.connection.data_received(data)
            for _ in range(turns):
                await asyncio.sleep(0)
        return self

    @property
    def knows(self) -> bool:
        """Whether the last head would be known again."""
        return self.connection._repeated is not None


async def test_the_same_head_says_the_same_whatever_the_length_of_the_body() -> None:
    client = await Client().send(PLAIN)
    assert client.knows
    del client.connection._parser  # Whoever needs it now fails.
    await client.send(PLAIN, HEAD % b"0", HEAD % b"1000000" + b"x" * 1_000_000, HEAD % b"05" + b"hello")
    assert [len(body) for _, body in client.asked] == [5, 5, 0, 1_000_000, 5]
    first, *others = [scope for scope, _ in client.asked]
    assert (first["path"], first["raw_path"], first["query_string"]) == ("/a b", b"/a%20b", b"q")
    lengths = [dict(scope.pop("headers")) for scope in (first, *others)]
    assert [one.pop(b"content-length") for one in lengths] == [b"5", b"5", b"0", b"1000000", b"05"]
    assert all(one == {b"host": b"x", b"authorization": b"one"} for one in lengths)
    assert all(scope == first for scope in others)
    assert b"".join(client.transport.written).count(b"HTTP/1.1 200 OK\r\nx-asked: ") == 5


async def test_nothing_of_a_request_that_was_answered_is_left_to_the_collector() -> None:
    client = Client()
    gc.collect()
    gc.disable()
    try:
        await client.send(*[PLAIN] * 5)
        assert len(client.asked) == 5
        assert not [one for one in gc.get_objects() if isinstance(one, Turn)]
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "request_",
    [
        PLAIN.replace(b"\r\nHost", b"\r\nConnection: close\r\nHost"),
        PLAIN.replace(b"\r\nHost", b"\r\nExpect: 100-continue\r\nHost"),
        PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
        PLAIN + PLAIN,
        PLAIN + b"POST",
        PLAIN[:-1],
        b"\r\n\r\n" + PLAIN,
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\nx: content-length: 5\r\ncontent-length:  5\r\n\r\nhello",
        HEAD % b"5, 5" + b"hello",
        PLAIN.replace(b"Host: x", b"Host: x\r\nx-long: " + b"x" * 5_000),
    ],
)
async def test_only_one_plain_head_and_its_body_is_remembered(request_: bytes) -> None:
    assert not (await Client().send(request_)).knows


async def test_an_application_that_knows_the_server_takes_the_turn_and_may_ask_for_its_scope() -> None:
    class Knowing:
        async def __call__(self, *_: Any) -> None:
            raise AssertionError("asked as any other")

        async def answer(self, turn: Turn) -> None:
            scopes.append(turn.scope)
            await turn.answer(200, "", turn.whole() or b"")

    scopes: list[dict[str, Any]] = []
    client = Client()
    with socket.socket() as listener:
        client.connection._server = HttpServer(Knowing(), listener)
    await client.send(PLAIN, HEAD % b"2" + b"ab")
    assert [written.rpartition(b"\r\n\r\n")[2] for written in client.transport.written] == [b"hello", b"ab"]
    assert [dict(scope["headers"])[b"content-length"] for scope in scopes] == [b"5", b"2"]
    assert [scope["path"] for scope in scopes] == ["/a b", "/a b"]


async def test_a_body_that_looks_like_a_request_is_none() -> None:
    client = await Client().send(PLAIN, HEAD % (b"%d" % (2 * len(PLAIN))), PLAIN, PLAIN, PLAIN)
    assert [body for _, body in client.asked] == [b"hello", PLAIN + PLAIN, b"hello"]


async def test_a_repeated_head_waits_for_its_turn() -> None:
    client = await Client().send(PLAIN)
    await client.send(*[HEAD % b"1" + b"%d" % number for number in range(9)], turns=0)
    await client.send(b"")
    assert [body for _, body in client.asked] == [b"hello", *(b"%d" % number for number in range(9))]


async def test_more_of_them_than_may_wait_end_the_connection() -> None:
    client = await Client().send(PLAIN)
    await client.send(*[PLAIN] * (module.MAX_AHEAD + 5), turns=0)
    for _ in range(1_000):
        await asyncio.sleep(0)
    assert len(client.asked) == module.MAX_AHEAD + 2
    assert b"connection: close" in client.transport.written[-1]
    assert client.transport.closed


READS = (
    *(PLAIN, PLAIN, PLAIN, HEAD % b"3" + b"abc", HEAD % b"0", HEAD % b"007" + b"abcdefg", PLAIN + PLAIN, PLAIN[:40]),
    *(PLAIN[40:], b"\r\n", b"\r\n" + PLAIN, HEAD % b"5", b"hello", PLAIN[:-2], b"lo", PLAIN + PLAIN[:30], PLAIN[30:]),
    *(HEAD % b"-5" + b"hello", HEAD % b"5 " + b"hello", HEAD % b"\xb2" + b"ab", HEAD % b"" + b"hello"),
    *(PLAIN.replace(b"one", b"two"), PLAIN.replace(b"Host", b"host"), PLAIN.replace(b"POST", b"PUT")),
    *(HEAD % (b"%d" % len(PLAIN)) + PLAIN, HEAD % (b"%d" % (2 * len(PLAIN))) + PLAIN, HEAD % b"12345678" + b"x"),
    *(b"GET /c HTTP/1.1\r\nhost: x\r\n\r\n", PLAIN.replace(b"\r\nHost", b"\r\nConnection: close\r\nHost"), b"x"),
    PLAIN.replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\nConnection: keep-alive\r\n"),
    PLAIN.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked").replace(b"hello", b"2\r\nab\r\n0\r\n\r\n"),
)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_comes_is_answered_as_if_every_head_were_parsed(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    draw = random.Random(seed)
    for _ in range(150):
        turns = draw.choice((0, 1, 10))
        reads = [draw.choice(READS[: draw.choice((6, 18, len(READS)))]) for _ in range(12)]
        quick, slow = Client(), Client()
        await quick.send(*reads, turns=turns)
        with monkeypatch.context() as patch:
            patch.setattr(module, "repeated", lambda *_: None)
            await slow.send(*reads, turns=turns)
        for client in (quick, slow):
            await client.send(b"", turns=30)
        assert quick.asked == slow.asked, reads
        assert quick.transport.written == slow.transport.written, reads
        assert quick.transport.closed == slow.transport.closed, reads
