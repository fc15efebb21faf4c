"""Putting this machine to sleep when the gateway asks, if its operator allowed that, and waking others on its network.

The contract of the suspend command: it may return at once (as ``systemctl suspend`` does) or only when the machine is
awake again, and it must not take the agent down. The agent then joins as before.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from nodes.agent import messages as m
from nodes.config import NodeConfig
from nodes.errors import ConfigError

log = structlog.get_logger("nodes.sleep")

MAC = r"[0-9a-f]{2}(:[0-9a-f]{2}){5}"
ROUTES, CARDS = Path("/proc/net/route"), Path("/sys/class/net")
# Two clocks that differ by what the machine has slept drift apart by less than this otherwise.
_GAP_S = 0.2
_LOOK_S = 0.1


@dataclass(frozen=True)
class Suspender:
    """How this machine goes to sleep.

    Args:
        command: As its operator wrote it; no shell reads it.
        settle_s: How long a command that returned at once may take to have the machine asleep.
    """

    command: tuple[str, ...]
    settle_s: float

    async def suspend(self, leaving: asyncio.Event) -> None:
        """Run the command; returns when the machine is awake again, did not fall asleep, or the agent is leaving."""
        before_s = slept_s()
        log.info("suspending", command=self.command[0])
        try:
            process = await asyncio.create_subprocess_exec(*self.command, stdin=subprocess.DEVNULL)
        except OSError as error:
            log.error("suspend command cannot be run", why=error.strerror)
            return
        code = await _ended(process, leaving)
        if code:
            log.error("suspend command failed", exit_code=code)
            return
        until_s = time.monotonic() + self.settle_s
        while slept_s() - before_s < _GAP_S and time.monotonic() < until_s and not leaving.is_set():  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)
        log.info("awake", slept_s=round(slept_s() - before_s, 1))


async def _ended(process: asyncio.subprocess.Process, leaving: asyncio.Event) -> int:
    """Its exit code; 0 where it is ended because the agent leaves."""
    ending, left = asyncio.ensure_future(process.wait()), asyncio.ensure_future(leaving.wait())
    try:
        await asyncio.wait({ending, left}, return_when=asyncio.FIRST_COMPLETED)
        return ending.result() if ending.done() else 0
    finally:
        left.cancel()
        if process.returncode is None:
            process.kill()
        await ending


def slept_s() -> float:
    """Seconds that this machine has slept since it was started: one clock counts them, the other does not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


def suspender_of(config: NodeConfig) -> Suspender | None:
    """None where the operator did not allow it."""
    if not config.allow_suspend:
        return None
    command = tuple(shlex.split(config.suspend_command))
    if not command:
        raise ConfigError("--suspend-command: it is empty; leave it out for `systemctl suspend`")
    return Suspender(command, config.suspend_settle_s)


def offer_of(config: NodeConfig, profile_idle_w: float | None) -> m.SleepOffer | None:
    """What the gateway is told of sleeping; None where the operator did not allow it.

    Raises:
        ConfigError: Idle watts or the network card are not known.
    """
    if not config.allow_suspend:
        return None
    idle_w = profile_idle_w if config.idle_w is None else config.idle_w
    if idle_w is None:
        raise ConfigError("--allow-suspend: say with --idle-w what this machine takes while it is awake and idle")
    if config.sleep_w > idle_w:
        raise ConfigError(f"--sleep-w: {config.sleep_w:g} W are more than the {idle_w:g} W of idling")
    mac = card_address() if config.wake_mac is None else config.wake_mac.lower()
    if mac and not re.fullmatch(MAC, mac):
        raise ConfigError('--wake-mac: write it like aa:bb:cc:dd:ee:ff, or "" where a command of the gateway does it')
    return m.SleepOffer(
        mac=mac,
        wake_address=config.wake_address,
        idle_w=idle_w,
        sleep_w=config.sleep_w,
        wake_j=config.wake_j,
        wake_s=config.wake_s,
        suspend_s=config.suspend_s,
        suspend_w=idle_w if config.suspend_w is None else config.suspend_w,
    )


def card_address(routes: Path = ROUTES, cards: Path = CARDS) -> str:
    """Address of the network card of the default route.

    Raises:
        ConfigError: There is none that can be read.
    """
    try:
        rows = [line.split() for line in routes.read_text().splitlines()[1:]]
        card = next(row[0] for row in rows if len(row) > 1 and row[1] == "00000000")
        return (cards / card / "address").read_text().strip().lower()
    except (OSError, StopIteration) as error:
        raise ConfigError("--wake-mac: this machine's network card is not known; say which address wakes it") from error


def send_magic_packet(mac: str, wake_address: str) -> None:
    """Wake another machine on this network; a bad order is told and left."""
    host, _, port = wake_address.rpartition(":")
    if not re.fullmatch(MAC, mac) or not host or not port.isdecimal():
        log.warning("order to wake is not valid")
        return
    packet = b"\xff" * 6 + bytes.fromhex(mac.replace(":", "")) * 16
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outlet:
            outlet.setblocking(False)
            outlet.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            outlet.sendto(packet, (host, int(port)))
    except (OSError, OverflowError) as error:
        log.warning("magic packet not sent", why=str(error))
