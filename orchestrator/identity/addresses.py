"""By which names and addresses this machine can be reached, as far as it knows itself."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.config import split_address

SIOCGIFADDR = 0x8915
IPV6_TABLE = Path("/proc/net/if_inet6")
WILDCARDS = ("0.0.0.0", "::", "")  # noqa: S104 (compared with, never bound)
LOOPBACK = ("127.0.0.1", "::1")
# Nothing is sent there; the kernel only says from which address it would be (RFC 5737, RFC 3849).
SOMEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def own_names(further: Sequence[str], listen: Sequence[str]) -> list[str]:
    """Everything that a certificate of this machine should say, most telling first.

    Args:
        further: What the operator adds.
        listen: HOST:PORT that are listened on.
    """
    hosts = [split_address(address)[0] for address in listen]
    host = socket.gethostname().lower()
    names = [*further, *(name for name in hosts if name not in WILDCARDS), host, f"{host}.local", "localhost"]
    addresses = [*LOOPBACK, *_outward(), *_interfaces()]
    return list(dict.fromkeys(name for name in [*names, *addresses] if is_name(name)))


def reachable_host(further: Sequence[str], listen: str) -> str:
    """What others should call the machine that listens there."""
    host = split_address(listen)[0]
    if host not in WILDCARDS:
        return host
    # A network without a way out has no outward address, but its interfaces have.
    inward = (address for address in _interfaces() if address not in LOOPBACK)
    return next(iter([*further, *_outward(), *inward]), socket.gethostname().lower())


def is_name(text: str) -> bool:
    """Whether it may stand in a certificate: an address, or a host name in ASCII."""
    letters = text.replace("-", "").replace(".", "").replace(":", "").replace("_", "")
    return letters.isascii() and letters.isalnum() and len(text) <= 253


def _outward() -> Iterator[str]:
    for family, address in SOMEWHERE:
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            yield str(probe.getsockname()[0])


def _interfaces() -> Iterator[str]:
    """The first IPv4 address of each interface and all IPv6 addresses that need no zone (Linux only)."""
    with contextlib.suppress(OSError, ImportError):
        import fcntl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            for _, name in socket.if_nameindex():
                with contextlib.suppress(OSError):
                    asked = struct.pack("256s", name.encode()[:15])
                    yield socket.inet_ntoa(fcntl.ioctl(probe.fileno(), SIOCGIFADDR, asked)[20:24])
    with contextlib.suppress(OSError, ValueError):
        for line in IPV6_TABLE.read_text().splitlines():
            address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line.split()[0]))
            if not address.startswith("fe80"):
                yield address
