"""A gate's file gives back the gate, or says that it is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from optimizer.gate.gate import fit_gate
from orchestrator.study.errors import StudyError
from orchestrator.study.store import hashes, load_gate, save_gate
from tests.optimizer.gate.needed import needs_native
from tests.optimizer.gate.toy import prompts, qualities


@needs_native
def test_a_gate_survives_its_file_and_knows_what_it_was_trained_on(tmp_path: Path) -> None:
    texts, tasks, kinds = prompts(60)
    gate, path = fit_gate(texts, tasks, qualities(kinds)), tmp_path / "gate.npz"
    save_gate(path, gate, hashes(texts))
    stored = load_gate(path)
    assert stored.gate.quality("a poem", "chat").tolist() == gate.quality("a poem", "chat").tolist()
    assert stored.knows([texts[0], "a new one", ""]).tolist() == [True, False, False]
    assert [entry.name for entry in tmp_path.iterdir()] == ["gate.npz"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"hello", None])
def test_what_is_no_gate_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "gate.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StudyError, match=r"no such file|not a gate"):
        load_gate(path)


def test_objects_in_a_file_are_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "gate.npz"
    np.savez(path, allow_pickle=True, format=np.array(1), tasks=np.array([{"a": 1}], dtype=object))
    with pytest.raises(StudyError, match="not a gate"):
        load_gate(path)


@needs_native
def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    texts, tasks, kinds = prompts(60)
    gate = fit_gate(texts, tasks, qualities(kinds))
    with pytest.raises(StudyError, match="no such file or directory"):
        save_gate(tmp_path / "absent" / "gate.npz", gate, hashes(texts))
