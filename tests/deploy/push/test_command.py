"""What the user types becomes orders, or one line that says what is wrong with it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from deploy.bundle.assemble import Recipe, pack
from deploy.bundle.wheels import Target
from deploy.commands import main
from deploy.errors import DeployError
from deploy.push.command import _from_bundle, _from_wheel, gateway_url, settings_of
from deploy.push.facts import PROBE, look
from deploy.push.plan import node_name
from tests.deploy.bundle.wheel_files import a_wheel
from tests.fakes.host import FakeHost


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://gw", "https://gw:8420"),
        ("https://10.0.0.5:9000/", "https://10.0.0.5:9000"),
        ("https://[fd00::1]", "https://[fd00::1]:8420"),
    ],
)
def test_the_port_of_a_gateway_is_filled_in(text: str, url: str) -> None:
    assert gateway_url(text) == url


@pytest.mark.parametrize("text", ["gw:8420", "http://gw", "https://", "https://gw/x", "https://gw?x=1"])
def test_a_gateway_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(DeployError, match="is not https://HOST:PORT"):
        gateway_url(text)


def test_settings_are_options_of_run() -> None:
    found = settings_of(["experts=digits-linear", "profiling-s=0.1", "energy=rapl"], "laptop-cpu")
    assert found == {
        "EDGEWISE_NODE_PROFILE": "laptop-cpu",
        "EDGEWISE_NODE_EXPERTS": "digits-linear",
        "EDGEWISE_NODE_PROFILING_S": "0.1",
        "EDGEWISE_NODE_ENERGY": "rapl",
    }


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("expert=x", "'expert' is none of"),
        ("experts", "is none of"),
        ("identity=/x", "'identity' is none of"),
        ("experts=a\nPATH=/x", "line ends are not taken"),
        ("experts=$HOME", "are not taken"),
        ('models="x"', "are not taken"),
    ],
)
def test_settings_that_would_be_read_otherwise_are_refused(setting: str, why: str) -> None:
    with pytest.raises(DeployError, match=why):
        settings_of([setting], None)


@pytest.mark.parametrize(
    ("host", "name"), [("Kitchen.local", "kitchen.local"), ("_x", "x"), ("??", "node"), ("a" * 99, "a" * 64)]
)
def test_a_node_takes_its_hosts_name(host: str, name: str) -> None:
    assert node_name(host) == name


def test_mistakes_end_with_one_line_and_the_code_of_usage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["push", "a", "b", "--gateway", "https://gw", "--name", "x"]) == 2
    assert capsys.readouterr().err == (
        "error: wrong usage; --name is for one host; leave it out: each node takes its host's name\n"
    )
    file = tmp_path / "no.tar"
    file.write_bytes(b"no bundle")
    assert main(["inspect", str(file)]) == 1
    assert capsys.readouterr().err.startswith("error: bundle refused; ")


def test_what_is_installed_beside_an_agent_is_part_of_the_release(tmp_path: Path) -> None:
    wheel = a_wheel(tmp_path, "edgewise-0.1.0-py3-none-any.whl")
    plain, more = _from_wheel(wheel, tmp_path, ()), _from_wheel(wheel, tmp_path, ("gpu", "compile", "gpu"))
    assert (plain.extras, more.extras) == (("node",), ("compile", "gpu", "node"))
    assert more.release == f"{plain.release}-compile-gpu"
    assert _from_wheel(wheel, tmp_path, ("node",)).release == plain.release


def test_a_bundle_installs_what_it_was_made_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [a_wheel(tmp_path, name) for name in ("edgewise-0.1.0-py3-none-any.whl", "pip-26.0-py3-none-any.whl")]
    releases = set()
    for extras in (("node",), ("node", "compile")):
        made = pack(Recipe(Target("x86_64", "3.11"), extras), files, tmp_path / "b.tar")
        source = _from_bundle(made.file)
        assert source.extras == tuple(sorted(extras))
        releases.add(source.release)
    assert len(releases) == 2
    words = ["push", "a", "--gateway", "https://gw", "--bundle", str(tmp_path / "b.tar"), "--extra", "gpu"]
    assert main(words) == 2
    assert "bundle --extra" in capsys.readouterr().err


def test_a_host_that_cannot_be_reached_is_named_and_the_others_are_tried(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\necho Connection refused >&2\nexit 255\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    wheel = a_wheel(tmp_path, "edgewise-0.1.0-py3-none-any.whl")
    assert main(["push", "ada@one", "ada@two", "--gateway", "https://gw", "--wheel", str(wheel)]) == 6
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert [line.split(": ")[1] for line in lines] == ["ada@one", "ada@two"]
    assert all("nothing listens there" in line for line in lines)


def test_the_probe_is_understood_by_sh_and_changes_nothing(tmp_path: Path) -> None:
    """The real script, on this machine."""
    environment = {"HOME": str(tmp_path), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    done = subprocess.run(["sh", "-s", "--", ""], input=PROBE, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    machine = look(FakeHost(probed=done.stdout))
    assert machine.data == f"{tmp_path}/.local/share/edgewise"
    assert machine.pythons or "python" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_interpreter_that_is_named_is_looked_at_first(tmp_path: Path) -> None:
    fake = tmp_path / "my python"
    fake.write_text("#!/bin/sh\necho 3.14.2\n")
    fake.chmod(0o755)
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["sh", "-s", "--", str(fake)], input=PROBE, capture_output=True, text=True, env=environment)
    assert look(FakeHost(probed=done.stdout)).pythons[0].path == str(fake)
