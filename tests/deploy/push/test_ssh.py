"""The way over ssh: which options it is given, and what is said when it fails. A script stands in for the command."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deploy.errors import DeployError
from deploy.push.ssh import OpenSsh
from orchestrator.errors import ExitCode

ECHO = '#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n'


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command `ssh` that is first in the path; the tests write what it does."""
    script = tmp_path / "ssh"
    script.write_text(ECHO)
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return script


def test_it_never_asks_and_always_checks_the_host(ssh: Path) -> None:
    words = OpenSsh("ada@kitchen", ["Port=2222"]).run("true").stdout.split("\n")
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes"} <= set(words)
    # The first value counts: what the user says comes before ours, and the target after `--`.
    assert words.index("Port=2222") < words.index("BatchMode=yes")
    assert words[-4:] == ["--", "ada@kitchen", "true", ""]


@pytest.mark.parametrize(
    "option", ["StrictHostKeyChecking=no", "stricthostkeychecking=off", "UserKnownHostsFile=/dev/null"]
)
def test_the_check_of_host_keys_cannot_be_taken_away(option: str) -> None:
    with pytest.raises(DeployError, match="takes the check of host keys away"):
        OpenSsh("ada@kitchen", [option])
    OpenSsh("ada@kitchen", ["StrictHostKeyChecking=accept-new"])


@pytest.mark.parametrize("target", ["-oProxyCommand=x", "ada@", "a b", "ada@kitchen;x", ""])
def test_a_target_is_no_option_and_no_command(target: str) -> None:
    with pytest.raises(DeployError) as caught:
        OpenSsh(target)
    assert caught.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("Host key verification failed.", "its key is not known"),
        ("ada@kitchen: Permission denied (publickey).", "it lets this user in with none of the keys here"),
        ("ssh: Could not resolve hostname kitchen", "its name is not known"),
        ("connect to host kitchen port 22: Connection refused", "nothing listens there"),
        ("connect to host kitchen port 22: Connection timed out", "it does not answer"),
        ("something else", "something else"),
    ],
)
def test_a_machine_that_cannot_be_reached_says_why(ssh: Path, said: str, why: str) -> None:
    ssh.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 255\n")
    with pytest.raises(DeployError, match=f"host unreachable; ada@kitchen: {why}") as caught:
        OpenSsh("ada@kitchen").run("true")
    assert caught.value.exit_code is ExitCode.UNREACHABLE


def test_the_code_of_the_command_itself_is_passed_on(ssh: Path) -> None:
    ssh.write_text("#!/bin/sh\necho out\necho err >&2\nexit 3\n")
    reply = OpenSsh("kitchen").run("false")
    assert (reply.code, reply.stdout, reply.stderr) == (3, "out\n", "err\n")


def test_a_command_that_never_ends_is_given_up(ssh: Path) -> None:
    ssh.write_text("#!/bin/sh\nexec sleep 30\n")
    with pytest.raises(DeployError, match="it does not answer"):
        OpenSsh("kitchen").run("true", timeout_s=0.2)


def test_files_appear_whole_or_not_at_all(ssh: Path, tmp_path: Path) -> None:
    ssh.write_text('#!/bin/sh\nfor last in "$@"; do :; done\nexec sh -c "$last"\n')
    file = tmp_path / "file"
    file.write_bytes(b"\0content\n")
    to = tmp_path / "there" / "a file.tar"
    OpenSsh("kitchen").send(file, str(to))
    assert to.read_bytes() == b"\0content\n"
    assert sorted(path.name for path in to.parent.iterdir()) == ["a file.tar"]
    (tmp_path / "in the way").write_text("")
    with pytest.raises(DeployError, match="file not sent"):
        OpenSsh("kitchen").send(file, str(tmp_path / "in the way" / "x.tar"))


def test_without_a_client_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DeployError, match="install the OpenSSH client"):
        OpenSsh("kitchen").run("true")
