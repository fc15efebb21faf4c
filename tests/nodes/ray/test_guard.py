"""No cluster without a token: what is refused, and that a cluster that wants one is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from nodes.errors import ExitCode
from nodes.ray import guard
from nodes.ray.errors import ClusterLost, ClusterRefused
from nodes.ray.head import check_reach, last_words, start_command, start_environment
from nodes.ray.listeners import open_ports, processes_of
from nodes.ray.spec import ClusterSpec
from tests.fakes.ports import free_address


def refuse(request: bytes, context: Any) -> bytes:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken: Authentication token is missing or incorrect")
    raise AssertionError


def welcome(request: bytes, context: Any) -> bytes:
    return b""


@contextmanager
def head(answer: Callable[[bytes, Any], bytes]) -> Iterator[str]:
    """What answers where a cluster's head would, without a token."""
    server = grpc.server(ThreadPoolExecutor(1))
    service, method = guard.PROBE.strip("/").split("/")
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(answer)}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_a_cluster_that_wants_a_token_is_taken() -> None:
    with head(refuse) as target:
        guard.check_cluster(target)


def test_a_cluster_that_answers_to_anybody_is_refused() -> None:
    with head(welcome) as target, pytest.raises(ClusterRefused, match="without a token; stop it") as caught:
        guard.check_cluster(target)
    assert caught.value.exit_code is ExitCode.AUTH


def test_a_cluster_that_is_not_there_is_said_to_be() -> None:
    with pytest.raises(ClusterLost) as caught:
        guard.check_cluster(free_address())
    assert caught.value.exit_code is ExitCode.UNREACHABLE


def test_a_token_is_made_once_for_its_owner_and_shown_by_its_path_only(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "token"
    guard.make_token(file)
    first = guard.read_token(file)
    guard.make_token(file)
    assert (guard.read_token(file), file.stat().st_mode & 0o777) == (first, 0o600)
    environment = {"RAY_AUTH_TOKEN": "another"}
    guard.with_token(file, environment)
    assert environment == {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(file)}


@pytest.mark.parametrize(("mode", "text"), [(0o644, "x" * 64), (0o600, "short"), (None, "")])
def test_tokens_that_are_none_are_refused(tmp_path: Path, mode: int | None, text: str) -> None:
    file = tmp_path / "token"
    if mode is not None:
        file.write_text(text)
        file.chmod(mode)
    with pytest.raises(ClusterRefused):
        guard.read_token(file)


def test_authentication_that_was_switched_off_is_refused(tmp_path: Path) -> None:
    guard.make_token(tmp_path / "token")
    with pytest.raises(ClusterRefused, match="RAY_AUTH_MODE=disabled"):
        guard.with_token(tmp_path / "token", {"RAY_AUTH_MODE": "disabled"})


def test_a_head_beyond_loopback_needs_somebody_to_say_that_it_is_protected() -> None:
    with pytest.raises(ClusterRefused, match="every interface"):
        check_reach(ClusterSpec(listen="10.0.0.5"))
    check_reach(ClusterSpec(listen="10.0.0.5", behind_firewall=True))
    check_reach(ClusterSpec())


def test_a_head_is_told_its_address_and_stays_on_loopback() -> None:
    cluster = ClusterSpec(num_cpus=2, labels={"edgewise.device": "orin"})
    command = start_command(cluster)
    assert {"--node-ip-address=127.0.0.1", "--include-dashboard=false", "--labels=edgewise.device=orin"} <= {*command}
    assert start_environment(cluster, {})[guard.LOOPBACK_SWITCH] == "0"
    assert guard.LOOPBACK_SWITCH not in start_environment(ClusterSpec(listen="10.0.0.5"), {})
    assert start_environment(cluster, {"RAY_health_check_period_ms": "5"})["RAY_health_check_period_ms"] == "5"


def fake_process(proc: Path, pid: int, *, parent: int, command: str, inodes: tuple[int, ...] = ()) -> None:
    folder = proc / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "cmdline").write_bytes(command.replace(" ", "\0").encode())
    (folder / "stat").write_text(f"{pid} (a b) c) S {parent} 0 0")
    for number, inode in enumerate(inodes):
        (folder / "fd" / str(number)).symlink_to(f"socket:[{inode}]")


def test_ports_on_every_interface_are_found_among_the_clusters_processes_only(tmp_path: Path) -> None:
    home = Path("/tmp/house")
    fake_process(tmp_path, 9001, parent=1, command="raylet --dir=/tmp/house/session_1/logs", inodes=(1,))
    fake_process(tmp_path, 9002, parent=9001, command="ray::Agent", inodes=(2, 3))
    fake_process(tmp_path, 9003, parent=1, command="python /tmp/house.py", inodes=(4,))
    fake_process(tmp_path, 9004, parent=1, command="ray::Agent", inodes=(5,))
    (tmp_path / "9004" / "fd" / "9").symlink_to("/tmp/house/session_1/logs/agent.log")
    (tmp_path / "net").mkdir()
    rows = [
        ("00000000:1F90", 1),
        ("0100007F:1F91", 2),
        ("0" * 32 + ":1F92", 3),
        ("00000000:1F93", 4),
        ("00000000:1F94", 5),
    ]
    text = "".join(f"0: {address} x 0A 0 0 0 0 0 {inode}\n" for address, inode in rows)
    (tmp_path / "net" / "tcp").write_text("head\n" + text)
    pids = processes_of(home, tmp_path)
    assert pids == {9001, 9002, 9004}
    assert open_ports(pids, tmp_path) == [0x1F90, 0x1F92, 0x1F94]


def test_a_head_that_does_not_start_is_explained_by_its_errors_not_its_chatter() -> None:
    chatter = "INFO usage_lib.py -- Usage stats collection is disabled.\nINFO scripts.py -- Local node IP: 127.0.0.1\n"
    errors = "Traceback (most recent call last):\nException: The current node timed out during startup.\n\n"
    assert last_words(errors, chatter) == "Exception: The current node timed out during startup."
    assert last_words("\n", chatter) == "INFO scripts.py -- Local node IP: 127.0.0.1"
    assert last_words("", "") == "it says nothing"
