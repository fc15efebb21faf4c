"""The process of compiled arms on a GPU, and of builds for one: as `nodes.worker.main`, without needing onnxruntime.

JetPack's own Python has TensorRT and numpy, and often nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodes.worker.main import Replies, enter_process, serve

if TYPE_CHECKING:
    from nodes.worker.lockdown import Rules


def main(slots: int, parent_pid: int, rules: Rules | None = None) -> None:
    """Serve until stdin closes; see `nodes.worker.main.main`."""
    commands_fd, replies_fd = enter_process(parent_pid)
    serve(slots, commands_fd, Replies(replies_fd), rules=rules, needs_onnxruntime=False)
