"""A machine that sleeps as the contract of `fleet.proto` says, without any machine that does.

Asked to, its node says that it sleeps and leaves. From then on only a magic packet for its address, received on a UDP
socket on loopback, brings it back, `boot_s` later. It can be deaf, as a machine whose card does not listen.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from edgewise.v1 import fleet_pb2 as fleet
from tests.fakes.arms import FakeArm
from tests.fakes.node import FakeNode
from tests.fakes.turn import Behaviour

MAC = "02:00:00:00:00:07"


def magic(mac: str) -> bytes:
    """What wakes a machine: written down once more, by the text of the standard."""
    return bytes([255] * 6) + bytes(int(part, 16) for part in mac.split(":")) * 16


class FakeSleeper(asyncio.DatagramProtocol):
    """One machine; use it as an async context manager.

    Args:
        target: The gateway's address.
        name: Of its node.
        arms: What that announces.
        behaviour: What it does with work.
        boot_s: From the packet until it joins.
        deaf: Never wakes.
        offer: Fields of its `SleepOffer` that replace the usual ones.
    """

    def __init__(
        self,
        target: str,
        *,
        name: str = "sleeper",
        arms: Sequence[FakeArm] = (FakeArm(),),
        behaviour: Behaviour,
        boot_s: float = 0.05,
        deaf: bool = False,
        **offer: Any,
    ) -> None:
        self._target, self._name, self._arms, self._behaviour = target, name, arms, behaviour
        self._boot_s, self._deaf, self._offer = boot_s, deaf, offer
        self._living: asyncio.Task[None] | None = None
        self._heard = asyncio.Event()
        self._transport: asyncio.DatagramTransport | None = None
        self.node: FakeNode | None = None
        self.packets: list[bytes] = []
        self.naps = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        await self._boot()
        self._living = asyncio.ensure_future(self._live())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._living is not None and not self._living.done():
            self._living.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._living
        awake, self.node = self.node, None
        if awake is not None:
            await awake.leave()
        if self._transport is not None:
            self._transport.close()

    @property
    def wake_address(self) -> str:
        """Where it listens while it sleeps."""
        assert self._transport is not None
        host, port = self._transport.get_extra_info("sockname")
        return f"{host}:{port}"

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """A card hears everything, and wakes the machine for its own packet alone."""
        self.packets.append(data)
        if data == magic(MAC) and not self._deaf:
            self._heard.set()

    async def _boot(self) -> None:
        known: dict[str, Any] = {"mac": MAC, "wake_address": self.wake_address, "idle_w": 20.0, "sleep_w": 1.0}
        known |= {"wake_j": 50.0, "wake_s": 0.2}
        sleep = fleet.SleepOffer(**(known | self._offer))
        self.node = FakeNode(self._target, name=self._name, arms=self._arms, behaviour=self._behaviour, sleep=sleep)
        await self.node.join()

    async def _live(self) -> None:
        while self.node is not None:
            await self.node.seen.suspended.wait()
            self._heard.clear()
            self.node.emit(fleet.NodeEvent(sleeping=fleet.Sleeping()))
            asleep, self.node = self.node, None
            await asleep.leave()
            self.naps += 1
            await self._heard.wait()
            await asyncio.sleep(self._boot_s)
            await self._boot()
