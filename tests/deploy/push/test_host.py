"""What runs on the machine itself, on folders of this one: real files, real processes, a stand-in for the package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.bundle.assemble import Recipe, pack
from deploy.bundle.wheels import Target
from deploy.push import host
from tests.deploy.bundle.wheel_files import a_wheel

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
MACHINE = os.uname().machine
ROOT = Path(__file__).parents[3]
Box = dict[str, Any]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """Places of one node; what runs there ends with the test."""
    base = tmp_path / "share"
    params = {
        "base": str(base),
        "identities": str(base / "node"),
        "settings": str(tmp_path / "config" / "node.env"),
        "unit": None,
        "service": "supervisor",
        "release": "1-aaa",
        "deployment": "d1",
        "settings_text": "EDGEWISE_DEPLOYMENT=d1\n",
        "unit_text": None,
    }
    yield params
    host._end_supervisor(params)


def a_release(box: Box, name: str, command: str = "exec sleep 60") -> None:
    """A release whose `edgewise` is a shell script, with this interpreter in the place of its own."""
    folder = Path(box["base"]) / "releases" / name / "bin"
    folder.mkdir(parents=True)
    (folder / "python").write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} "$@"\n')
    (folder / "edgewise").write_text(f"#!/bin/sh\n{command}\n")
    for file in folder.iterdir():
        file.chmod(0o755)
    (folder.parent / host.MARK).write_text(json.dumps({"python": f"{box['base']}/python/{name}/python/bin/python3"}))


def until(what: Callable[[], Any]) -> Any:
    end_s = time.monotonic() + 10.0
    while not (found := what()) and time.monotonic() < end_s:
        time.sleep(0.02)
    return found


def test_an_empty_machine_has_nothing(box: Box) -> None:
    found = host.inspect(box)
    assert (found["releases"], found["current"], found["agent"], found["identities"]) == ([], None, None, {})
    assert found["free_bytes"] > 0


def test_an_agent_is_started_once_and_known_by_its_deployment(box: Box) -> None:
    a_release(box, "1-aaa")
    host.configure(box)
    pid = host.start(box)["pid"]
    assert host.inspect(box)["agent"] == {"pid": pid, "deployment": "d1"}
    assert os.readlink(Path(box["base"]) / "current") == "releases/1-aaa"
    # Started again it is another process, and the former one has ended.
    again = host.start(box)["pid"]
    assert again != pid
    assert not psutil.pid_exists(pid)


def test_an_agent_that_dies_comes_back(box: Box) -> None:
    a_release(box, "1-aaa")
    host.configure(box)
    pid = host.start(box)["pid"]
    os.kill(pid, 9)
    back = until(lambda: (found := host.agent(box)) and found["pid"] != pid and found)
    assert back["deployment"] == "d1"


def test_one_that_cannot_start_says_why(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "START_S", 1.0)
    a_release(box, "1-aaa", "echo no such profile >&2; exit 2")
    host.configure(box)
    with pytest.raises(host.Trouble) as caught:
        host.start(box)
    assert "no such profile" in caught.value.args[1]
    assert "ended with code 2; not started again" in caught.value.args[1]


def test_a_note_of_a_supervisor_that_is_gone_counts_for_nothing(box: Box) -> None:
    folder = Path(box["base"]) / "run" / "node"
    folder.mkdir(parents=True)
    (folder / "pids.json").write_text(json.dumps({"supervisor": os.getpid(), "agent": os.getpid()}))
    assert host.agent(box) is None
    host._end_supervisor(box)


def test_settings_are_private_and_left_alone_when_right(box: Box) -> None:
    host.configure(box)
    file = Path(box["settings"])
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.stat().st_mtime_ns
    host.configure(box)
    assert file.stat().st_mtime_ns == before
    host.configure({**box, "settings_text": "X=1\n"})
    assert file.read_text() == "X=1\n"


def test_the_tree_sees_names_contents_modes_and_times_and_not_the_log(box: Box) -> None:
    a_release(box, "1-aaa")
    host.configure(box)
    digests = [host.tree(box)["sha256"], host.tree(box)["sha256"]]
    log = Path(box["base"]) / "run" / "node" / "log"
    log.parent.mkdir(parents=True)
    log.write_text("said something")
    digests.append(host.tree(box)["sha256"])
    assert len(set(digests)) == 1
    file = Path(box["base"]) / "releases" / "1-aaa" / "bin" / "edgewise"
    file.chmod(0o700)
    digests.append(host.tree(box)["sha256"])
    os.utime(file, (1, 1))
    digests.append(host.tree(box)["sha256"])
    Path(box["settings"]).unlink()
    digests.append(host.tree(box)["sha256"])
    assert len(set(digests)) == 4


def test_old_releases_go_and_the_one_before_stays(box: Box) -> None:
    for name in ("1-aaa", "2-bbb", "3-ccc"):
        a_release(box, name)
        (Path(box["base"]) / "python" / name / "python").mkdir(parents=True)
    host.prune({**box, "keep": ["3-ccc", "2-bbb"]})
    assert host.inspect(box)["releases"] == ["2-bbb", "3-ccc"]
    # So do Pythons that came along and that none of those is on.
    assert sorted(path.name for path in Path(box["base"], "python").iterdir()) == ["2-bbb", "3-ccc"]


# ---- bundles


@pytest.fixture
def sent(box: Box, tmp_path: Path) -> Path:
    """A bundle as it arrived."""
    wheel = a_wheel(tmp_path, f"edgewise-0.1.0-py3-none-linux_{MACHINE}.whl", library=MACHINE)
    file = Path(box["base"]) / "incoming" / "1-aaa" / "first.tar"
    pack(Recipe(Target(MACHINE, PYTHON)), [wheel], file)
    return file


def test_a_bundle_is_unpacked_with_every_file_checked(sent: Path) -> None:
    wheels, manifest = host._unpack(sent)
    assert [path.name for path in wheels.iterdir()] == [f"edgewise-0.1.0-py3-none-linux_{MACHINE}.whl"]
    assert manifest["version"] == "0.1.0"
    content = sent.read_bytes()
    assert content.count(b"GLIBC_2.17") == 1
    sent.write_bytes(content.replace(b"GLIBC_2.17", b"GLIBC_2.18"))
    with pytest.raises(host.Trouble) as caught:
        host._unpack(sent)
    assert "is not what its manifest says" in caught.value.args[1]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"python": "3.9"}, f"for python 3.9, and this is {PYTHON}"),
        ({"machine": "riscv64"}, f"for machine riscv64, and this is {MACHINE}"),
        ({"glibc": "9.0"}, "its wheels need glibc 9.0"),
    ],
)
def test_a_bundle_for_another_machine_is_refused_there_too(sent: Path, change: dict[str, str], why: str) -> None:
    _, manifest = host._unpack(sent)
    with pytest.raises(host.Trouble) as caught:
        host._fits({**manifest, **change}, sys.executable)
    assert why in caught.value.args[1]


def test_compiled_parts_that_will_not_load_are_said(sent: Path) -> None:
    _, manifest = host._unpack(sent)
    assert host._fits(manifest, sys.executable) == ""
    assert "they stay unused" in host._fits({**manifest, "native_glibc": "9.0"}, sys.executable)
    assert "without compiled parts" in host._fits({**manifest, "native": False}, sys.executable)


def test_an_installation_that_was_cut_off_is_made_anew_and_a_whole_one_left_alone(box: Box, tmp_path: Path) -> None:
    """Offline, with pip's own wheel, as on a machine without ensurepip; the package is a small one."""
    import ensurepip

    bundled = next(Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl"))
    own = tmp_path / f"edgewise-0.1.0-py3-none-linux_{MACHINE}.whl"
    with zipfile.ZipFile(own, "w") as archive:
        about = "edgewise-0.1.0.dist-info"
        archive.writestr("edgewise_stand_in.py", "")
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: edgewise\nVersion: 0.1.0\n")
        archive.writestr(f"{about}/WHEEL", f"Wheel-Version: 1.0\nTag: py3-none-linux_{MACHINE}\n")
        archive.writestr(f"{about}/RECORD", "")
    file = Path(box["base"]) / "incoming" / "1-aaa" / "first.tar"
    params = {**box, "sent": str(file), "offline": True, "python": sys.executable, "extras": "node"}
    pack(Recipe(Target(MACHINE, PYTHON)), [own, bundled], file)
    release = Path(box["base"]) / "releases" / "1-aaa"
    (release / "half").mkdir(parents=True)
    host.install(params)
    assert (release / host.MARK).exists()
    assert not (release / "half").exists()
    assert not file.parent.exists()
    command = [str(release / "bin/python"), "-c", "import edgewise_stand_in"]
    assert subprocess.run(command).returncode == 0
    assert host.install(params) == {"note": "was there"}


def test_the_script_answers_as_one_line_of_json(box: Box) -> None:
    """As it is sent: its source on stdin, the call at its end."""
    source = Path(host.__file__).read_text()
    done = subprocess.run(
        [sys.executable, "-"], input=f"{source}\nmain('inspect', {json.dumps(box)!r})\n", capture_output=True, text=True
    )
    assert done.stderr == ""
    assert json.loads(done.stdout)["releases"] == []
    (Path(box["base"]).parent / "config").write_text("in the way")
    done = subprocess.run(
        [sys.executable, "-"],
        input=f"{source}\nmain('configure', {json.dumps(box)!r})\n",
        capture_output=True,
        text=True,
    )
    what, why, cure = json.loads(done.stdout)["trouble"]
    assert (what, cure) == ("configure failed", "repair that, then push again")
    assert "config" in why
