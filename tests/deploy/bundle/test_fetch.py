"""What is fetched must have the digest that the user named."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.bundle.fetch import fetch, is_address
from deploy.errors import DeployError

CONTENT = b"a python"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A server of one file."""
    served = tmp_path / "served"
    served.mkdir()
    (served / "cpython.tar.gz").write_bytes(CONTENT)
    handler = functools.partial(Quiet, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/cpython.tar.gz"
        server.shutdown()
        thread.join()


def test_a_file_with_its_digest_comes(address: str, tmp_path: Path) -> None:
    assert fetch(f"{address}#sha256={DIGEST.upper()}", tmp_path).read_bytes() == CONTENT
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("mark", "why"),
    [("", "needs the digest"), ("#md5=1", "needs the digest"), (f"#sha256={'0' * 64}", f"has the digest {DIGEST}")],
)
def test_another_file_does_not(address: str, tmp_path: Path, mark: str, why: str) -> None:
    with pytest.raises(DeployError, match=why):
        fetch(address + mark, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["served"]


def test_an_address_that_does_not_answer_is_said(address: str, tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="404"):
        fetch(f"{address}x#sha256={DIGEST}", tmp_path)


def test_files_are_told_from_addresses() -> None:
    assert is_address("https://host/x")
    assert not is_address("/home/x")
    assert not is_address("x.tar.gz")
