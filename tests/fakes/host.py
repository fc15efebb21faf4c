"""A machine behind ssh, and a gateway, both in this process: what they were told, and how they answer."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.errors import DeployError
from deploy.push.carry_out import Verified
from deploy.push.ssh import Reply

PROBED = """system=Linux
machine=x86_64
host=Kitchen.local
home=/home/ada
user=ada
uid=1000
data=/home/ada/.local/share/edgewise
config=/home/ada/.config
linger=no
python=3.11.4 /usr/bin/python3
python=3.9.2 /usr/bin/python3.9
"""
GATEWAY = "gw:8422"


@dataclass
class FakeHost:
    """A `Transport` to a machine that does what `deploy.push.host` does, on a few attributes instead of a disk.

    Attributes:
        trouble: What a verb fails with, by verb.
    """

    target: str = "ada@kitchen"
    probed: str = PROBED
    verbs: list[str] = field(default_factory=list)
    shown: list[dict[str, Any]] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    releases: set[str] = field(default_factory=set)
    current: str | None = None
    identities: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: str | None = None
    unit: str | None = None
    agent: dict[str, Any] | None = None
    free_bytes: int = 10**12
    trouble: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    pids: int = 100

    def run(self, command: str, *, stdin: bytes = b"", timeout_s: float = 0.0) -> Reply:
        """The probe, a verb, or plain shell."""
        if stdin.startswith(b"# Looks around"):
            return Reply(0, self.probed, "")
        if not stdin:
            self.verbs.append("shell")
            return Reply(0, "", "")
        call = ast.parse(stdin.decode().splitlines()[-1], mode="eval").body
        assert isinstance(call, ast.Call)
        verb, params = (ast.literal_eval(word) for word in call.args)
        self.verbs.append(verb)
        self.shown.append(json.loads(params))
        if verb in self.trouble:
            return Reply(0, json.dumps({"trouble": self.trouble[verb]}) + "\n", "")
        return Reply(0, json.dumps(getattr(self, f"_{verb}")(json.loads(params))) + "\n", "")

    def send(self, file: Path, to: str) -> None:
        """Note what was sent."""
        self.verbs.append("send")
        self.sent.append(to)

    def _inspect(self, p: dict[str, Any]) -> dict[str, Any]:
        return {
            "releases": sorted(self.releases),
            "current": self.current,
            "identities": self.identities,
            "settings": self.settings,
            "unit": self.unit if p["unit"] else None,
            "agent": self.agent,
            "free_bytes": self.free_bytes,
        }

    def _install(self, p: dict[str, Any]) -> dict[str, Any]:
        self.releases.add(p["release"])
        return {"note": ""}

    def _join(self, p: dict[str, Any]) -> dict[str, Any]:
        self.identities[p["name"]] = {"gateway": GATEWAY, "age_s": 1.0}
        return {"note": p["token"]}

    def _configure(self, p: dict[str, Any]) -> dict[str, Any]:
        self.settings, self.unit = p["settings_text"], p["unit_text"]
        return {"note": ""}

    def _start(self, p: dict[str, Any]) -> dict[str, Any]:
        self.current, self.pids = p["release"], self.pids + 1
        self.agent = {"pid": self.pids, "deployment": p["deployment"]}
        return {"note": f"pid {self.pids}"}

    def _prune(self, p: dict[str, Any]) -> dict[str, Any]:
        self.releases &= set(p["keep"])
        return {"note": ""}

    def _tree(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"sha256": str(hash((frozenset(self.releases), self.current, self.settings, self.unit)))}

    def _log(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"tail": "its log ends: goodbye"}


@dataclass
class FakeGateway:
    """A `deploy.push.carry_out.Gateway`.

    Attributes:
        well: Whether a version of a node verifies.
    """

    well: Callable[[str], bool] = lambda _: True
    tokens: list[str] = field(default_factory=list)

    def token(self, name: str) -> str:
        """A token with the name in it."""
        self.tokens.append(name)
        return f"token-of-{name}"

    def verify(self, name: str, version: str) -> Verified:
        """Healthy, if it is to be."""
        if not self.well(version):
            raise DeployError("not verified", f"{name} does not come", "look at its log")
        return Verified(name, "healthy", version, f"digits-linear:fp32@{name}", "r1")
