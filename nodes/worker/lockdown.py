"""Takes from this process what running a model does not need: files, network, other programs, and memory without end.

Whoever has the kernel's means loses nothing by them: once numpy and ONNX Runtime are loaded, a model that comes through
the pipe runs without opening anything. Landlock (Linux 5.13) and a seccomp filter refuse files, sockets, programs and
signals each on their own; limits bound memory and processor time; both outlast everything that the process does.
Needs Python 3.10 and nothing else.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass

PR_SET_NO_NEW_PRIVS, PR_SET_DUMPABLE = 38, 4
SET_MODE_FILTER, GET_ACTION_AVAIL, FLAG_TSYNC = 1, 2, 1
LANDLOCK_VERSION_FLAG = 1
PATH_BENEATH = 1
READ_FILE, READ_DIR = 1 << 2, 1 << 3
NETWORK_SINCE, SCOPE_SINCE = 4, 6

ALLOW, DENY, UNKNOWN, KILL = 0x7FFF0000, 0x00050000 | 13, 0x00050000 | 38, 0x80000000
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER_AT, ARCHITECTURE_AT, FIRST_ARGUMENT_AT = 0, 4, 16
CLONE_THREAD = 0x00010000
X32_BIT = 0x40000000


@dataclass(frozen=True)
class Architecture:
    """System calls of one kind of processor; `denied` are those that running a model never needs."""

    audit: int
    seccomp: int
    clone: int
    clone3: int
    tgkill: int
    opening: tuple[int, ...]
    denied: tuple[int, ...]


# The same on both: landlock and what came after 2018. io_uring opens files past any filter.
_RECENT = (*range(424, 434), 434, 438, 440, 442)
ARCHITECTURES = {
    "x86_64": Architecture(
        audit=0xC000003E,
        seccomp=317,
        clone=56,
        clone3=435,
        tgkill=234,
        # open, creat, openat, openat2, open_by_handle_at
        opening=(2, 85, 257, 437, 304),
        denied=(
            *(41, 42, 43, 49, 50, 53, 288),  # socket, connect, accept, bind, listen, socketpair, accept4
            *(57, 58, 59, 322),  # fork, vfork, execve, execveat
            *(62, 200, 129, 297, 101, 310, 311, 302),  # kill, tkill, sigqueue, ptrace, process_vm, prlimit64
            *(76, 82, 83, 84, 86, 87, 88, 90, 92, 94, 133),  # truncate, rename, mkdir … mknod
            *(258, 259, 260, 263, 264, 265, 266, 268, 316),  # the same with a folder's descriptor
            *(155, 161, 165, 166, 272, 308, 163, 167, 169, 175, 313, 246, 320),  # mounts, namespaces, modules
            *(248, 249, 250, 298, 303, 321, 323),  # keys, perf, handles, bpf, userfaultfd
            *_RECENT,
        ),
    ),
    "aarch64": Architecture(
        audit=0xC00000B7,
        seccomp=277,
        clone=220,
        clone3=435,
        tgkill=131,
        opening=(56, 437, 265),
        denied=(
            *(198, 199, 200, 201, 202, 203, 242),
            *(221, 281),
            *(129, 130, 138, 240, 117, 270, 271, 261),
            *(33, 34, 35, 36, 37, 38, 45, 53, 54, 276),
            *(39, 40, 41, 51, 97, 268, 89, 105, 142, 224, 273, 104, 294),
            *(217, 218, 219, 241, 264, 280, 282),
            *_RECENT,
        ),
    ),
}


class LockFailed(Exception):
    """The kernel did not take a protection that it said it has."""


@dataclass(frozen=True)
class Protections:
    """What a kernel offers.

    Attributes:
        landlock: Version of its interface; 0 where there is none.
        seccomp: Whether filters of system calls are there, and we know this processor's calls.
    """

    landlock: int
    seccomp: bool

    @property
    def enough(self) -> bool:
        """Whether a stranger's model may run: either keeps it from files, and both from programs or sockets."""
        return self.seccomp

    def described(self) -> str:
        """For people."""
        landlock = f"Landlock {self.landlock}" if self.landlock else "no Landlock"
        return f"{landlock}, {'seccomp' if self.seccomp else 'no seccomp'}, limits of memory and processor time"


@dataclass(frozen=True)
class Rules:
    """What a process may still do.

    Attributes:
        readable: Folders below which it may read, beside Python's own; none means that it opens nothing at all.
        memory_bytes: What it may map beyond what it has mapped already; 0 for no limit.
        cpu_s: Processor seconds until it is ended; 0 for no limit.
    """

    readable: tuple[str, ...] = ()
    memory_bytes: int = 0
    cpu_s: int = 0


def probe() -> Protections:
    """Ask the kernel; changes nothing."""
    architecture = ARCHITECTURES.get(platform.machine())
    if not sys.platform.startswith("linux") or architecture is None or sys.maxsize < 2**32:
        return Protections(0, False)
    action = ctypes.c_uint32(0x00050000)
    available = _call(architecture.seccomp, GET_ACTION_AVAIL, 0, ctypes.byref(action)) == 0
    return Protections(max(0, _call(444, None, 0, LANDLOCK_VERSION_FLAG)), available)


def lock(rules: Rules) -> Protections:
    """Give up what `rules` do not allow, for good. Call with one thread running.

    Returns:
        What is in force now.

    Raises:
        LockFailed: if the kernel refuses what it said it has.
    """
    found = probe()
    if not sys.platform.startswith("linux"):
        return found
    _limit(rules)
    libc = ctypes.CDLL(None, use_errno=True)
    # A process that others cannot look into, and that no program it might start makes more powerful.
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise LockFailed("no_new_privs is not accepted")
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    if found.landlock:
        # Who may read something may read what Python loads only when it is needed.
        _landlock(found.landlock, (*rules.readable, *_interpreter()) if rules.readable else ())
    if found.seccomp:
        _filter(ARCHITECTURES[platform.machine()], opens_files=bool(rules.readable))
    return found


def _limit(rules: Rules) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    # Writing beyond a limit of zero bytes would end the process; an error does.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if rules.memory_bytes:
        most = _mapped_bytes() + rules.memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    if rules.cpu_s:
        used_s = int(sum(os.times()[:2]))
        resource.setrlimit(resource.RLIMIT_CPU, (used_s + rules.cpu_s, used_s + rules.cpu_s + 1))


def _interpreter() -> list[str]:
    return sorted({path for path in (os.path.dirname(os.__file__), *sys.path) if os.path.isdir(path)})


def _mapped_bytes() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _call(number: int, *arguments: object) -> int:
    return int(ctypes.CDLL(None, use_errno=True).syscall(number, *arguments))


# ---- Landlock


def _landlock(version: int, readable: Sequence[str]) -> None:
    files = (1 << (13 if version < 2 else 14 if version < 3 else 15 if version < 5 else 16)) - 1
    network = 3 if version >= NETWORK_SINCE else 0
    scoped = 3 if version >= SCOPE_SINCE else 0
    attributes = struct.pack("<QQQ", files, network, scoped)
    size = 8 if version < NETWORK_SINCE else 16 if version < SCOPE_SINCE else 24
    ruleset = _call(444, attributes, size, 0)
    if ruleset < 0:
        raise LockFailed("Landlock takes no rules")
    for folder in readable:
        _allow_reading(ruleset, folder)
    if _call(446, ruleset, 0) != 0:
        raise LockFailed("Landlock is not accepted")
    os.close(ruleset)


def _allow_reading(ruleset: int, folder: str) -> None:
    descriptor = os.open(folder, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY)
    rule = struct.pack("<Qi", READ_FILE | READ_DIR, descriptor)
    failed = _call(445, ruleset, PATH_BENEATH, rule, 0)
    os.close(descriptor)
    if failed:
        raise LockFailed(f"Landlock does not take {folder}")


# ---- seccomp


def _filter(architecture: Architecture, *, opens_files: bool) -> None:
    program = filter_program(architecture, pid=os.getpid(), opens_files=opens_files)
    instructions = ctypes.create_string_buffer(program)

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))

    packed = Program(len(program) // 8, ctypes.addressof(instructions))
    if _call(architecture.seccomp, SET_MODE_FILTER, FLAG_TSYNC, ctypes.byref(packed)) != 0:
        raise LockFailed("the filter of system calls is not accepted")


def filter_program(architecture: Architecture, *, pid: int, opens_files: bool) -> bytes:
    """The filter as the kernel reads it: eight bytes an instruction; a jump counts what it skips."""
    denied = sorted({*architecture.denied, *(() if opens_files else architecture.opening)} - {architecture.clone3})
    lines = [
        _line(LOAD, ARCHITECTURE_AT),
        _line(EQUAL, architecture.audit, 1, 0),
        _line(RETURN, KILL),
        _line(LOAD, NUMBER_AT),
        # Calls of the x32 interface have other numbers.
        _line(AT_LEAST, X32_BIT, 0, 1),
        _line(RETURN, KILL),
        # Its flags lie in memory, where no filter can look: the C library then takes `clone`.
        *_when(architecture.clone3, _line(RETURN, UNKNOWN)),
        *_when(
            architecture.clone,
            _line(LOAD, FIRST_ARGUMENT_AT),
            _line(ANY_BIT, CLONE_THREAD, 0, 1),
            _line(RETURN, ALLOW),
            _line(RETURN, DENY),
        ),
        # Threads of this process may be signalled (that is how one aborts), others not.
        *_when(
            architecture.tgkill,
            _line(LOAD, FIRST_ARGUMENT_AT),
            _line(EQUAL, pid, 0, 1),
            _line(RETURN, ALLOW),
            _line(RETURN, DENY),
        ),
        *(line for number in denied for line in _when(number, _line(RETURN, DENY))),
        _line(RETURN, ALLOW),
    ]
    return b"".join(lines)


def _when(number: int, *lines: bytes) -> tuple[bytes, ...]:
    return (_line(EQUAL, number, 0, len(lines)), *lines)


def _line(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("<HBBI", code, then, otherwise, value)
