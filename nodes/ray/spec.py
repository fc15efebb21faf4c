"""The file that lists which agents a Ray cluster runs, and what each needs of the machine that it runs on."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from nodes.config import Name
from nodes.ray.errors import SpecRefused
from nodes.ray.order import Order

LOCAL = "local"
# Said by the file's own keys, by the gateway's address, or nowhere: what stands on a command line is seen by everybody.
OWNED_FLAGS = frozenset({"--name", "--gateway", "--identity", "--profile", "--experts", "--token", "--log"})
_LABEL_KEY = re.compile(r"^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")
_LABEL_VALUE = re.compile(r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$")


def _checked_labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    for key, value in labels.items():
        if not _LABEL_KEY.match(key) or not _LABEL_VALUE.match(value):
            raise ValueError(f"{key}={value}: use letters, digits and . _ - such as edgewise.device=jetson-agx-orin")
    return labels


def _checked_address(address: str) -> str:
    host, colon, port = address.rpartition(":")
    if address != LOCAL and not (host and colon and port.isdecimal() and 1 <= int(port) <= 65535):
        raise ValueError(f"use {LOCAL}, or HOST:PORT of a cluster that runs, such as 10.0.0.5:6379")
    return address


def _checked_listen(listen: str) -> str:
    address = ipaddress.ip_address(listen)
    if address.is_unspecified:
        raise ValueError("name one address of this machine; all interfaces at once is what is refused")
    return listen


Labels = Annotated[Mapping[str, str], AfterValidator(_checked_labels)]


class ClusterSpec(BaseModel):
    """Which cluster, and how it is protected.

    Attributes:
        address: ``local`` starts a head on this machine; HOST:PORT connects to one that runs.
        listen: Address of the head that ``local`` starts.
        behind_firewall: Beyond loopback Ray listens on every interface whatever it is told; this says that a firewall
            or a network of its own keeps others away.
        port: Of the head that ``local`` starts.
        token_file: Holds the cluster's token, for its owner only; made where the head is started here and has none.
        folder: Sessions and logs of the head that ``local`` starts.
        num_cpus: What the head that ``local`` starts offers; None for all of the machine.
        labels: Of the head's own Ray node.
        namespace: In which actors have their names.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: Annotated[str, AfterValidator(_checked_address)] = LOCAL
    listen: Annotated[str, AfterValidator(_checked_listen)] = "127.0.0.1"
    behind_firewall: bool = False
    port: int = Field(default=6380, ge=1024, le=65535)
    token_file: Path | None = None
    folder: Path | None = None
    num_cpus: float | None = Field(default=None, ge=0)
    object_store_mib: int = Field(default=100, ge=80)
    labels: Labels = Field(default_factory=dict)
    namespace: Name = "edgewise"

    @property
    def token_path(self) -> Path:
        """Where the token is."""
        default = self.home / "token" if self.address == LOCAL else Path("~/.ray/auth_token")
        return (self.token_file or default).expanduser()

    @property
    def home(self) -> Path:
        """Where the head that is started here keeps its sessions; short, as sockets' paths must be."""
        return (self.folder or Path("/tmp") / f"edgewise-ray-{os.getuid()}").expanduser()  # noqa: S108 (made private)

    @property
    def target(self) -> str:
        """HOST:PORT of the head."""
        if self.address != LOCAL:
            return self.address
        return f"[{self.listen}]:{self.port}" if ":" in self.listen else f"{self.listen}:{self.port}"


class AgentSpec(BaseModel):
    """One agent: what it needs of a Ray node, and what `edgewise node run` is told.

    Attributes:
        name: Of the node, as the gateway calls it.
        num_cpus: Reserved of the Ray node.
        num_gpus: Likewise.
        resources: Custom resources of the Ray node that are reserved.
        labels: The Ray node must have them.
        profile: Device profile.
        experts: Experts to offer; empty for all.
        arguments: Further options of `edgewise node run`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    num_cpus: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    num_gpus: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    resources: Mapping[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    labels: Labels = Field(default_factory=dict)
    profile: str | None = None
    experts: tuple[Name, ...] = ()
    arguments: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _owned(self) -> Self:
        for argument in self.arguments:
            if (flag := argument.partition("=")[0]) in OWNED_FLAGS:
                raise ValueError(f"arguments: {flag} is not for here; the file's keys and the gateway say it")
        return self

    def options(self) -> list[str]:
        """Options of `edgewise node run`, less those that say where the gateway is."""
        profile = ["--profile", self.profile] if self.profile else []
        experts = ["--experts", ",".join(self.experts)] if self.experts else []
        return [*profile, *experts, *self.arguments]


class FleetSpec(BaseModel):
    """A cluster and the agents on it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cluster: ClusterSpec = Field(default_factory=ClusterSpec)
    agents: tuple[AgentSpec, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [agent.name for agent in self.agents]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"agents: two are called {twice[0]}")
        return self


def order_for(agent: AgentSpec, gateway: str | None, version: str) -> Order:
    """The order for an agent; its revision is a digest of the agent, the gateway and Edgewise's version."""
    said = json.dumps([agent.model_dump(mode="json"), gateway, version], sort_keys=True)
    return Order(agent.name, gateway, tuple(agent.options()), hashlib.sha256(said.encode()).hexdigest()[:12])


def read_spec(path: Path) -> FleetSpec:
    """The spec of a file.

    Raises:
        SpecRefused: It cannot be read, is no YAML, or says something wrong; names the place.
    """
    try:
        return parse_spec(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise SpecRefused(f"{path}: {(error.strerror or 'cannot be read').lower()}", "check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecRefused(f"{path}: no YAML ({_first_line(error)})", "see deploy/docs/ray.md") from error


def parse_spec(values: Any) -> FleetSpec:
    """The spec of plain values; errors as in `read_spec`."""
    if not isinstance(values, dict):
        raise SpecRefused("the file holds no mapping", "begin with `agents:`, see deploy/docs/ray.md")
    try:
        return FleetSpec.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise SpecRefused(f"{where}: {first['msg'].removeprefix('Value error, ')}", "see deploy/docs/ray.md") from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
