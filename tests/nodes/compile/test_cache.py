"""The cache under damage, theft, other versions, two builders at once, and a full disk."""

from __future__ import annotations

import errno
import hmac
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodes.compile.cache import SEAL_FILE, Cache, Entry, key_of
from nodes.compile.errors import CompileError, EngineNotLocal
from nodes.compile.seal import KEY_BYTES, KEY_FILE, node_key

KEY, OTHER_KEY = b"k" * KEY_BYTES, b"o" * KEY_BYTES
PURPOSE = {"model": "m", "runtime": "rtx", "version": "1.7.1", "device": "sm8.9 driver 13000"}


class Builds:
    """Makes files and counts how often."""

    def __init__(self, content: bytes = b"engine bytes") -> None:
        self.content = content
        self.count = 0

    def __call__(self, folder: Path) -> tuple[str, dict[str, Any]]:
        self.count += 1
        (folder / "engines").mkdir()
        (folder / "engines" / "a.engine").write_bytes(b"beside")
        (folder / "model.engine").write_bytes(self.content)
        return "model.engine", {"name": "m", "variant": "rtx"}


def cache(root: Path, key: bytes = KEY, quota_bytes: int = 10_000) -> Cache:
    return Cache(root, key, quota_bytes=quota_bytes)


def test_what_was_built_is_kept_and_found_again(tmp_path: Path) -> None:
    build = Builds()
    made, kept = (cache(tmp_path).obtain(PURPOSE, build) for _ in range(2))
    assert (build.count, made.made, kept.made) == (1, True, False)
    assert kept.file.read_bytes() == b"engine bytes"
    assert set(kept.beside) == {"engines/a.engine"}
    assert kept.facts == made.facts


def flip(file: Path, at: int = 3) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(bytes(content))


def reworded(entry: Path, change: Callable[[dict[str, Any]], None]) -> None:
    written = json.loads((entry / SEAL_FILE).read_bytes())
    change(written)
    (entry / SEAL_FILE).write_text(json.dumps(written))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "one bit of the engine": lambda entry: flip(entry / "model.engine"),
    "one bit of a file beside": lambda entry: flip(entry / "engines" / "a.engine"),
    "truncated": lambda entry: (entry / "model.engine").write_bytes(b"engine"),
    "empty": lambda entry: (entry / "model.engine").write_bytes(b""),
    "file gone": lambda entry: (entry / "model.engine").unlink(),
    "seal gone": lambda entry: (entry / SEAL_FILE).unlink(),
    "seal is no JSON": lambda entry: (entry / SEAL_FILE).write_bytes(b"\x00\x01"),
    "seal is a list": lambda entry: (entry / SEAL_FILE).write_text("[]"),
    "facts improved": lambda entry: reworded(entry, lambda told: told["about"]["facts"].update(name="better")),
    "digest changed": lambda entry: reworded(entry, lambda told: told["about"]["digests"].update(x="y")),
    "file elsewhere": lambda entry: reworded(
        entry, lambda told: told["about"]["digests"].update({"../../model.engine": "0"})
    ),
    "folder is a file": lambda entry: entry.rename(f"{entry}.moved") and entry.write_bytes(b"x"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_deleted_and_built_anew(tmp_path: Path, damage: str) -> None:
    entry = cache(tmp_path).obtain(PURPOSE, Builds()).folder
    DAMAGE[damage](entry)
    with pytest.raises(EngineNotLocal) as refusal:
        cache(tmp_path).open(key_of(PURPOSE), PURPOSE)
    assert refusal.value.reason == "ENGINE_NOT_LOCAL"
    again = Builds(b"engine bytes, anew")
    found = cache(tmp_path).obtain(PURPOSE, again)
    assert (again.count, found.file.read_bytes()) == (1, b"engine bytes, anew")
    assert cache(tmp_path).open(key_of(PURPOSE), PURPOSE)


def test_without_the_seal_damage_would_be_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = cache(tmp_path).obtain(PURPOSE, Builds()).folder
    flip(entry / "model.engine")
    monkeypatch.setattr(hmac, "compare_digest", lambda _one, _other: True)
    never = Builds()
    assert cache(tmp_path).obtain(PURPOSE, never).file.read_bytes() != b"engine bytes"
    assert never.count == 0


def test_another_nodes_entry_is_foreign(tmp_path: Path) -> None:
    cache(tmp_path, OTHER_KEY).obtain(PURPOSE, Builds(b"theirs"))
    mine = Builds(b"mine")
    assert cache(tmp_path).obtain(PURPOSE, mine).file.read_bytes() == b"mine"
    assert mine.count == 1


def test_an_entry_of_another_version_in_the_right_place_is_refused(tmp_path: Path) -> None:
    older = {**PURPOSE, "version": "1.6.0"}
    folder = cache(tmp_path).obtain(older, Builds(b"older")).folder
    shutil.copytree(folder, tmp_path / key_of(PURPOSE))
    with pytest.raises(EngineNotLocal, match="another version"):
        cache(tmp_path).open(key_of(PURPOSE), PURPOSE)
    assert cache(tmp_path).obtain(PURPOSE, Builds(b"newer")).file.read_bytes() == b"newer"


def test_a_new_version_replaces_the_old_one_and_leaves_other_models(tmp_path: Path) -> None:
    kept = cache(tmp_path)
    older = kept.obtain({**PURPOSE, "version": "1.6.0"}, Builds()).folder
    other = kept.obtain({**PURPOSE, "model": "n", "version": "1.6.0"}, Builds()).folder
    cache(tmp_path).obtain(PURPOSE, Builds())
    assert (older.exists(), other.exists()) == (False, True)


@pytest.mark.parametrize("field", PURPOSE)
def test_every_field_is_part_of_the_key(tmp_path: Path, field: str) -> None:
    assert key_of({**PURPOSE, field: "other"}) != key_of(PURPOSE)


def test_threads_that_ask_at_once_share_one_build(tmp_path: Path) -> None:
    kept, build, waited = cache(tmp_path), Builds(), threading.Event()

    def slow(folder: Path) -> tuple[str, dict[str, Any]]:
        assert waited.wait(10), "the second one must come while the first builds"
        return build(folder)

    found: list[Entry] = []
    threads = [
        threading.Thread(target=lambda: found.append(kept.obtain(PURPOSE, slow, on_wait=waited.set))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert build.count == 1
    assert sorted(entry.made for entry in found) == [False, True]


# The builder tells that it builds, then waits for a line: the test lets the second process come in between.
BUILDER = """
import sys
from pathlib import Path
from nodes.compile.cache import Cache
def make(folder):
    print("builds", flush=True)
    sys.stdin.readline()
    (folder / "model.engine").write_bytes(b"engine")
    return "model.engine", {}
entry = Cache(Path(sys.argv[1]), b"k" * 32, quota_bytes=10_000).obtain(
    {"model": "m"}, make, on_wait=lambda: print("waits", flush=True)
)
print("made" if entry.made else "kept", entry.file.read_bytes().decode(), flush=True)
"""


def test_two_processes_one_build(tmp_path: Path) -> None:
    start = [sys.executable, "-c", BUILDER, str(tmp_path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(start, **pipes) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "builds\n"
        with subprocess.Popen(start, **pipes) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "waits\n"
            assert first.communicate("go\n", timeout=20)[0] == "made engine\n"
            assert second.communicate(timeout=20)[0] == "kept engine\n"


def test_a_builder_that_was_killed_leaves_no_lock_and_no_half_entry(tmp_path: Path) -> None:
    start = [sys.executable, "-c", BUILDER, str(tmp_path)]
    with subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "builds\n"
        builder.kill()
    assert cache(tmp_path).names() == []
    assert cache(tmp_path).obtain({"model": "m"}, Builds()).made


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def failing(folder: Path) -> tuple[str, dict[str, Any]]:
        (folder / "model.engine").write_bytes(b"half")
        raise CompileError("no")

    with pytest.raises(CompileError, match="no"):
        cache(tmp_path).obtain(PURPOSE, failing)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    def full(_folder: Path) -> tuple[str, dict[str, Any]]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(CompileError, match="no space"):
        cache(tmp_path).obtain(PURPOSE, full)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_lock_that_cannot_be_had_is_told(tmp_path: Path) -> None:
    (tmp_path / f"{key_of(PURPOSE)}.lock").mkdir()
    with pytest.raises(CompileError, match="cannot be locked"):
        cache(tmp_path).obtain(PURPOSE, Builds())


def test_the_longest_unused_leave_first_and_those_in_use_never(tmp_path: Path) -> None:
    def obtained(kept: Cache, model: str) -> Path:
        return kept.obtain({"model": model}, Builds(b"x" * 3000)).folder

    folders = {model: obtained(cache(tmp_path, quota_bytes=100_000), model) for model in "abc"}
    for age_s, model in enumerate("cba"):
        os.utime(folders[model] / SEAL_FILE, (1e9 + age_s, 1e9 + age_s))
    small = cache(tmp_path, quota_bytes=9_000)
    obtained(small, "c")  # Used here, and now the last used.
    folders["d"] = obtained(small, "d")
    assert [model for model in "abcd" if folders[model].exists()] == ["c", "d"]
    assert small.shrink(0) == []
    assert len(cache(tmp_path).shrink(0)) == 2, "nobody uses them any more"


def test_what_is_larger_than_the_whole_quota_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="quota"):
        cache(tmp_path, quota_bytes=100).obtain(PURPOSE, Builds(b"x" * 1000))


def test_the_key_is_the_owners_alone_and_stays(tmp_path: Path) -> None:
    key = node_key(tmp_path)
    file = tmp_path / KEY_FILE
    assert (file.stat().st_mode & 0o777, len(key), node_key(tmp_path)) == (0o600, KEY_BYTES, key)
    file.chmod(0o640)
    with pytest.raises(CompileError, match="read by others"):
        node_key(tmp_path)
    file.chmod(0o600)
    file.write_bytes(b"short")
    with pytest.raises(CompileError, match="not whole"):
        node_key(tmp_path)
