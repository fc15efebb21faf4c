"""Units of systemd: nothing is left to fill in, systemd takes them, and nothing an operator wrote is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.errors import DeployError
from deploy.service.units import Role, Scope, Unit, install, next_steps, render, unit_of

COMMAND = "/bin/true"
EVERY = [(role, scope) for role in Role for scope in Scope]


def unit_in(folder: Path, role: Role, scope: Scope) -> Unit:
    return Unit(role, scope, folder / "units" / f"edgewise-{role.value}.service", folder / "etc" / f"{role.value}.env")


def verify(file: Path, scope: Scope) -> subprocess.CompletedProcess[str]:
    words = ["systemd-analyze", *(["--user"] if scope is Scope.USER else []), "verify", str(file)]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(file.parent)}
    return subprocess.run(words, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(("role", "scope"), EVERY)
def test_systemd_takes_every_unit(tmp_path: Path, role: Role, scope: Scope) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("not run: there is no systemd-analyze here")
    unit = unit_in(tmp_path, role, scope)
    install(unit, render(unit, COMMAND, {"video"}), "")
    done = verify(unit.file, scope)
    assert (done.returncode, done.stderr) == (0, "")
    # The control: what systemd does not know is found.
    unit.file.write_text(unit.file.read_text().replace("[Service]", "[Service]\nRestartt=always"))
    assert "Restartt" in verify(unit.file, scope).stderr


@pytest.mark.parametrize(("role", "scope"), EVERY)
def test_units_are_hardened_and_filled_in(role: Role, scope: Scope) -> None:
    unit = unit_of(role, scope, {"HOME": "/home/ada"})
    text = render(unit, COMMAND)
    for line in ("NoNewPrivileges=yes", "Restart=always", f"EnvironmentFile={unit.environment}", "KillMode=mixed"):
        assert f"\n{line}\n" in text
    assert "@COMMAND@" not in text
    assert "@ENVIRONMENT@" not in text
    assert "@GROUPS@" not in text
    # A node that was drained stays away.
    assert ("\nRestartPreventExitStatus=0 2 3 5\n" in text) == (role is Role.NODE)
    # Nothing notifies systemd, so nothing may be waited for.
    assert "WatchdogSec" not in text
    assert "Type=exec" in text
    strict = "ProtectSystem=strict" in text and "StateDirectory=" in text and "DynamicUser=yes" in text
    assert strict == (scope is Scope.SYSTEM)


def test_a_node_may_use_gpus_and_the_groups_that_exist() -> None:
    unit = unit_of(Role.NODE, Scope.SYSTEM, {})
    text = render(unit, COMMAND, {"energy", "video", "wheel"})
    assert "SupplementaryGroups=energy video\n" in text
    assert "DevicePolicy=closed\nDeviceAllow=char-nvidia* rw\n" in text
    assert "SupplementaryGroups" not in render(unit, COMMAND)
    assert "PrivateDevices=yes" in render(unit_of(Role.GATEWAY, Scope.SYSTEM, {}), COMMAND)


def test_places_are_those_of_the_scope() -> None:
    user = unit_of(Role.NODE, Scope.USER, {"HOME": "/home/ada"})
    assert str(user.file) == "/home/ada/.config/systemd/user/edgewise-node.service"
    assert str(user.environment) == "/home/ada/.config/edgewise/node.env"
    assert str(unit_of(Role.GATEWAY, Scope.SYSTEM, {}).environment) == "/etc/edgewise/gateway.env"
    assert any("enable-linger" in line for line in next_steps(user))


def test_what_the_operator_set_stays_and_a_second_time_changes_nothing(tmp_path: Path) -> None:
    unit = unit_in(tmp_path, Role.NODE, Scope.SYSTEM)
    text = render(unit, COMMAND)
    assert install(unit, text, "# empty\n") == [unit.environment, unit.file]
    assert unit.environment.stat().st_mode & 0o777 == 0o600
    unit.environment.write_text("EDGEWISE_NODE_PROFILE=laptop-cpu\n")
    assert install(unit, text, "# empty\n") == []
    assert install(unit, render(unit, "/bin/false"), "# empty\n") == [unit.file]
    assert unit.environment.read_text() == "EDGEWISE_NODE_PROFILE=laptop-cpu\n"


@pytest.mark.parametrize("command", ["edgewise", "/opt/100%/edgewise", "/opt/$HOME/edgewise"])
def test_a_command_that_systemd_would_read_otherwise_is_refused(command: str) -> None:
    with pytest.raises(DeployError, match="absolute path"):
        render(unit_of(Role.NODE, Scope.USER, {"HOME": "/"}), command)


def test_a_folder_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("in the way")
    unit = unit_in(tmp_path, Role.NODE, Scope.SYSTEM)
    with pytest.raises(DeployError, match=r"unit not written; .*etc.*; use sudo"):
        install(unit, "", "")
