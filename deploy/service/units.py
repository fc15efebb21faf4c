"""Fills the templates in `deploy/systemd/` and writes them where systemd looks for them."""

from __future__ import annotations

import grp
import os
import shlex
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from deploy.errors import DeployError

TEMPLATES = Path(__file__).parents[1] / "systemd"
# Who may read the sensors (deploy/udev) and open a GPU where the system keeps them to a group.
GROUPS = ("energy", "video", "render")


class Role(StrEnum):
    """What a service runs."""

    NODE = "node"
    GATEWAY = "gateway"


class Scope(StrEnum):
    """Whose service manager runs it."""

    SYSTEM = "system"
    USER = "user"


@dataclass(frozen=True)
class Unit:
    """A unit and the files that belong to it.

    Attributes:
        environment: File of its settings, NAME=VALUE.
    """

    role: Role
    scope: Scope
    file: Path
    environment: Path

    @property
    def name(self) -> str:
        """What systemd calls it."""
        return self.file.name


def unit_of(role: Role, scope: Scope, environment: Mapping[str, str]) -> Unit:
    """Where the unit and its settings lie; below a user's folders those of XDG."""
    name = f"edgewise-{role.value}.service"
    if scope is Scope.SYSTEM:
        return Unit(role, scope, Path("/etc/systemd/system") / name, Path(f"/etc/edgewise/{role.value}.env"))
    config = Path(environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME", "~")) / ".config").expanduser()
    return Unit(role, scope, config / "systemd" / "user" / name, config / "edgewise" / f"{role.value}.env")


def render(unit: Unit, command: str, groups: Collection[str] = ()) -> str:
    """The text of a unit.

    Args:
        unit: What to render.
        command: How `edgewise` is started, an absolute path first.
        groups: Groups that exist on the machine.

    Raises:
        DeployError: systemd would read the command in another way than it is meant.
    """
    if not command.startswith("/") or "%" in command or "$" in command:
        why = f"{command!r} is not an absolute path that systemd takes as it stands"
        raise DeployError("unit not written", why, "name the command with --command /path/to/edgewise")
    text = (TEMPLATES / f"{unit.role.value}.{unit.scope.value}.service").read_text()
    wanted = [group for group in GROUPS if group in groups]
    text = text.replace("@GROUPS@\n", f"SupplementaryGroups={' '.join(wanted)}\n" if wanted else "")
    return text.replace("@COMMAND@", command).replace("@ENVIRONMENT@", str(unit.environment))


def command_here() -> str:
    """How `edgewise` of this interpreter is started.

    Raises:
        DeployError: It has none beside it.
    """
    script = Path(sys.executable).with_name("edgewise")
    if not script.exists():
        why = f"{script} is not there"
        raise DeployError("no command", why, "install the package, or name it with --command /path/to/edgewise")
    return shlex.quote(str(script))


def existing_groups() -> set[str]:
    """Groups of this machine."""
    return {entry.gr_name for entry in grp.getgrall()}


def install(unit: Unit, text: str, settings: str) -> list[Path]:
    """Write unit and settings; returns what changed. Settings that exist are the operator's and stay.

    Raises:
        DeployError: A file cannot be written.
    """
    changed = []
    try:
        if not unit.environment.exists():
            _write(unit.environment, settings, 0o600)
            changed.append(unit.environment)
        if not unit.file.exists() or unit.file.read_text() != text:
            _write(unit.file, text, 0o644)
            changed.append(unit.file)
    except OSError as error:
        why = f"{error.filename}: {(error.strerror or 'unknown cause').lower()}"
        raise DeployError("unit not written", why, "use sudo for --system, or --user") from error
    return changed


def next_steps(unit: Unit) -> list[str]:
    """What to type next."""
    if unit.scope is Scope.SYSTEM:
        return ["sudo systemctl daemon-reload", f"sudo systemctl enable --now {unit.name}"]
    return [
        "systemctl --user daemon-reload",
        f"systemctl --user enable --now {unit.name}",
        "sudo loginctl enable-linger $USER    # so that it runs while you are logged out",
    ]


def _write(file: Path, text: str, mode: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.tmp")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as stream:
        stream.write(text)
    draft.replace(file)
