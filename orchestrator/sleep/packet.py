"""The magic packet that wakes a machine: six bytes of 255, then its address sixteen times."""

from __future__ import annotations

import socket

from orchestrator.config import split_address


def magic_packet(mac: str) -> bytes:
    """The 102 bytes for one machine.

    Raises:
        ValueError: Not an address such as aa:bb:cc:dd:ee:ff.
    """
    address = bytes.fromhex(mac.replace(":", ""))
    if len(address) != 6:
        raise ValueError(f"{mac!r} is not the address of a network card, such as aa:bb:cc:dd:ee:ff")
    return b"\xff" * 6 + address * 16


def send_packet(mac: str, wake_address: str) -> None:
    """Send it, to a broadcast address if that is one.

    Raises:
        ValueError: Not an address of a card, or not HOST:PORT.
        OSError: The network does not take it.
    """
    host, port = split_address(wake_address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as outlet:
        outlet.setblocking(False)
        if family == socket.AF_INET:
            outlet.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        outlet.sendto(magic_packet(mac), (host, port))
