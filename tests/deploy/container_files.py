"""What container files must look like: strict models of the parts of Compose and Kubernetes that ours use, and a reader
of Dockerfiles. Neither Docker nor a cluster is needed (kubectl checks nothing without a server)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
Image = Annotated[str, Field(pattern=r"^[a-z0-9./-]+:[A-Za-z0-9._-]+$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Labels = dict[str, str]


class Strict(BaseModel):
    """Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


# ---- Kubernetes


class Meta(Strict):
    name: Name
    namespace: Name | None = None
    labels: Labels = {}


class FieldRef(Strict):
    fieldPath: Literal["spec.nodeName", "metadata.name"]


class ValueFrom(Strict):
    fieldRef: FieldRef


class Variable(Strict):
    name: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]
    value: str | None = None
    valueFrom: ValueFrom | None = None


class Capabilities(Strict):
    drop: tuple[Literal["ALL"]]


class ContainerSecurity(Strict):
    allowPrivilegeEscalation: Literal[False]
    readOnlyRootFilesystem: Literal[True]
    capabilities: Capabilities


class Mount(Strict):
    name: Name
    mountPath: Annotated[str, Field(pattern=r"^/")]
    readOnly: bool = False


class HttpGet(Strict):
    path: str
    port: Port
    scheme: Literal["HTTP", "HTTPS"]


class Exec(Strict):
    command: tuple[str, ...]


class Probe(Strict):
    httpGet: HttpGet | None = None
    exec_: Exec | None = Field(None, alias="exec")
    periodSeconds: int = Field(ge=1)
    timeoutSeconds: int = 1
    failureThreshold: int = 3


class ContainerPort(Strict):
    name: Name
    containerPort: Port


class Resources(Strict):
    requests: dict[Literal["cpu", "memory"], str]
    limits: dict[Literal["cpu", "memory"], str]


class Container(Strict):
    name: Name
    image: Image
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[Variable, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    readinessProbe: Probe | None = None
    livenessProbe: Probe | None = None
    resources: Resources | None = None
    securityContext: ContainerSecurity
    volumeMounts: tuple[Mount, ...] = ()


class Seccomp(Strict):
    type: Literal["RuntimeDefault"]


class PodSecurity(Strict):
    runAsNonRoot: Literal[True]
    runAsUser: int = Field(ge=1000)
    runAsGroup: int = Field(ge=1000)
    fsGroup: int
    seccompProfile: Seccomp


class Volume(Strict):
    """Only kinds that the restricted level of Pod Security admits."""

    name: Name
    persistentVolumeClaim: dict[Literal["claimName"], Name] | None = None
    emptyDir: dict[Literal["medium"], Literal["Memory"]] | None = None
    configMap: dict[Literal["name"], Name] | None = None
    secret: dict[Literal["secretName", "defaultMode"], Any] | None = None


class PodSpec(Strict):
    automountServiceAccountToken: Literal[False]
    terminationGracePeriodSeconds: int = Field(ge=45)
    nodeSelector: Labels = {}
    securityContext: PodSecurity
    initContainers: tuple[Container, ...] = ()
    containers: tuple[Container, ...]
    volumes: tuple[Volume, ...]


class Pod(Strict):
    metadata: Annotated[dict[Literal["labels"], Labels], Field(min_length=1)]
    spec: PodSpec


class Selector(Strict):
    matchLabels: Labels


class DeploymentSpec(Strict):
    replicas: Literal[1]
    strategy: dict[Literal["type"], Literal["Recreate"]]
    selector: Selector
    template: Pod


class DaemonSetSpec(Strict):
    selector: Selector
    updateStrategy: dict[str, Any]
    template: Pod


class ServicePort(Strict):
    name: Name
    port: Port
    targetPort: Port


class ServiceSpec(Strict):
    selector: Labels
    ports: tuple[ServicePort, ...]


class ClaimSpec(Strict):
    accessModes: tuple[Literal["ReadWriteOnce"]]
    resources: dict[Literal["requests"], dict[Literal["storage"], str]]


class Namespace(Strict):
    apiVersion: Literal["v1"]
    kind: Literal["Namespace"]
    metadata: Meta


class Claim(Strict):
    apiVersion: Literal["v1"]
    kind: Literal["PersistentVolumeClaim"]
    metadata: Meta
    spec: ClaimSpec


class Service(Strict):
    apiVersion: Literal["v1"]
    kind: Literal["Service"]
    metadata: Meta
    spec: ServiceSpec


class Deployment(Strict):
    apiVersion: Literal["apps/v1"]
    kind: Literal["Deployment"]
    metadata: Meta
    spec: DeploymentSpec


class DaemonSet(Strict):
    apiVersion: Literal["apps/v1"]
    kind: Literal["DaemonSet"]
    metadata: Meta
    spec: DaemonSetSpec


Manifest = Annotated[Namespace | Claim | Service | Deployment | DaemonSet, Field(discriminator="kind")]


# ---- Compose


class Build(Strict):
    context: str
    dockerfile: str


class ComposeService(Strict):
    build: Build
    image: Image | None = None
    command: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    ports: tuple[Annotated[str, Field(pattern=r"^\d+:\d+$")], ...] = ()
    volumes: tuple[Annotated[str, Field(pattern=r"^[a-z-]+:/")], ...] = ()
    depends_on: dict[str, dict[Literal["condition"], Literal["service_healthy"]]] = {}
    profiles: tuple[str, ...] = ()
    deploy: dict[str, Any] = {}
    labels: Labels = {}
    read_only: bool = False
    tmpfs: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    restart: Literal["unless-stopped", "always"]
    stop_grace_period: str | None = None


class Compose(Strict):
    name: Name | None = None
    version: Literal["2.1"] | None = None
    services: dict[Name, ComposeService]
    volumes: dict[Name, None]


# ---- Dockerfiles


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile, its lines joined."""

    name: str
    words: str


def read_dockerfile(file: Path) -> list[Instruction]:
    """The instructions of a Dockerfile, in order."""
    lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    pairs = (line.split(None, 1) for line in joined.splitlines() if line.strip())
    return [Instruction(pair[0], pair[1] if len(pair) > 1 else "") for pair in pairs]
