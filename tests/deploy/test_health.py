"""What a container's health check sees: real sockets, real tables of the kernel."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.health import ask_gateway, established, look_at_node, main
from tests.fakes.ports import free_port


class Answer(http.server.BaseHTTPRequestHandler):
    """200 for /healthz, or what the test says."""

    code = 200

    def do_GET(self) -> None:
        self.send_response(self.code if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def served() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("localhost", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_a_gateway_that_answers_is_well_and_one_that_does_not_is_not(served: int, tmp_path: Path) -> None:
    state = {"EDGEWISE_STATE_DIR": str(tmp_path)}
    assert ask_gateway(state, served) == ""
    Answer.code = 503
    try:
        assert "503" in ask_gateway(state, served)
    finally:
        Answer.code = 200
    assert "refused" in ask_gateway(state, free_port())


def a_node(folder: Path, port: int) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    (folder / "node.json").write_text(json.dumps({"name": "x", "gateway": f"localhost:{port}"}))
    return {"EDGEWISE_NODE_IDENTITY": str(folder)}


def test_a_node_is_well_while_it_is_connected(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        environment = a_node(tmp_path, port)
        assert look_at_node(environment) == f"not connected to localhost:{port}"
        with socket.create_connection(("127.0.0.1", port)):
            assert look_at_node(environment) == ""


def test_a_node_that_never_joined_says_so(tmp_path: Path) -> None:
    assert "not joined yet" in look_at_node({"EDGEWISE_NODE_IDENTITY": str(tmp_path)})


def test_the_kernels_table_is_read() -> None:
    head = "  sl  local_address rem_address   st\n"
    row = "   0: 0100007F:9C40 0100007F:20E6 {} 00000000:00000000\n"
    assert established([head + row.format("01")], 8422)
    assert not established([head + row.format("06")], 8422)
    assert not established([head + row.format("01")], 8421)


def test_its_code_is_that_of_a_health_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node"], {"EDGEWISE_NODE_IDENTITY": str(tmp_path)}) == 1
    assert main(["else"], {}) == 2
    assert "not joined yet" in capsys.readouterr().out
