"""The way to a machine: the `ssh` client that is installed, without questions and with its checks of host keys."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deploy.errors import DeployError
from orchestrator.errors import ExitCode

# What ssh itself ends with when it could not reach the other end.
SSH_FAILED = 255
CONNECT_S = 15
TARGET = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9_\[][A-Za-z0-9_.:\]-]*")
# Options that would take the check of host keys away.
UNCHECKED = re.compile(r"(?i)\s*(stricthostkeychecking\s*[= ]\s*(no|off)|userknownhostsfile\s*[= ]\s*/dev/null)\s*")
# What ssh says, why that is, and what to do.
REASONS = (
    ("Host key verification failed", "its key is not known here, or not the known one", "compare it, then: ssh {}"),
    (
        "Permission denied",
        "it lets this user in with none of the keys here",
        "ssh-copy-id {}, or name a key: --ssh-option IdentityFile=…",
    ),
    ("Could not resolve hostname", "its name is not known", "look at the spelling, or use its address"),
    ("Connection refused", "nothing listens there", "start its ssh server, or name the port: --ssh-option Port=…"),
    ("timed out", "it does not answer", "look whether it is on, and whether a firewall is between"),
)


@dataclass(frozen=True)
class Reply:
    """What a command on the other machine gave."""

    code: int
    stdout: str
    stderr: str


class Transport(Protocol):
    """Runs commands on one machine. Blocks; raises DeployError where the machine cannot be reached."""

    target: str

    def run(self, command: str, *, stdin: bytes = b"", timeout_s: float = 600.0) -> Reply:
        """Run a line of POSIX shell."""

    def send(self, file: Path, to: str) -> None:
        """Copy a file there; it appears whole or not at all."""


class OpenSsh:
    """A `Transport` over the installed `ssh`.

    Args:
        target: USER@HOST, as ssh takes it.
        options: Of ssh, each NAME=VALUE.

    Raises:
        DeployError: Target or options are refused.
    """

    def __init__(self, target: str, options: Sequence[str] = ()) -> None:
        if not TARGET.fullmatch(target):
            raise DeployError("wrong host", f"{target!r} is not USER@HOST", "write user@host", exit_code=ExitCode.USAGE)
        if refused := [option for option in options if UNCHECKED.fullmatch(option)]:
            why = f"{refused[0]} takes the check of host keys away"
            cure = "put the key into known_hosts: ssh-keyscan, then compare"
            raise DeployError("ssh option refused", why, cure, exit_code=ExitCode.USAGE)
        self.target = target
        # The first value of an option counts, so what the user says comes first.
        given = [word for option in options for word in ("-o", option)]
        ours = ["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", f"ConnectTimeout={CONNECT_S}"]
        self._command = ["ssh", *given, *ours, "-T", "--", target]

    def run(self, command: str, *, stdin: bytes = b"", timeout_s: float = 600.0) -> Reply:
        """Run a line of POSIX shell.

        Raises:
            DeployError: The machine cannot be reached, or did not answer in time.
        """
        try:
            done = subprocess.run([*self._command, command], input=stdin, capture_output=True, timeout=timeout_s)
        except FileNotFoundError as error:
            raise DeployError("no ssh", "there is no command ssh here", "install the OpenSSH client") from error
        except subprocess.TimeoutExpired as error:
            raise _unreachable(self.target, f"Connection timed out after {timeout_s:g} s") from error
        reply = Reply(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
        if reply.code == SSH_FAILED:
            raise _unreachable(self.target, reply.stderr)
        return reply

    def send(self, file: Path, to: str) -> None:
        """Copy a file there over the same connection; needs no sftp on the other side.

        Raises:
            DeployError: It cannot be written there.
        """
        folder, part, whole = (shlex.quote(text) for text in (to.rpartition("/")[0], f"{to}.part", to))
        command = f"umask 077 && mkdir -p {folder} && cat > {part} && mv {part} {whole}"
        with file.open("rb") as stream:
            done = subprocess.run([*self._command, command], stdin=stream, capture_output=True)
        if done.returncode == SSH_FAILED:
            raise _unreachable(self.target, done.stderr.decode(errors="replace"))
        if done.returncode:
            why = " ".join(done.stderr.decode(errors="replace").split()) or f"code {done.returncode}"
            raise DeployError("file not sent", f"{self.target}: {why}", "make room there, or look at its folders")


def _unreachable(target: str, said: str) -> DeployError:
    for sign, why, cure in REASONS:
        if sign in said:
            return DeployError(
                "host unreachable", f"{target}: {why}", cure.format(target), exit_code=ExitCode.UNREACHABLE
            )
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "ssh said nothing")
    return DeployError("host unreachable", f"{target}: {last}", f"try: ssh {target}", exit_code=ExitCode.UNREACHABLE)
