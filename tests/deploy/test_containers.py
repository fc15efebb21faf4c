"""Container files, checked without a Docker daemon or a cluster; images are built where there is a daemon."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from deploy.bundle.source import ROOT, project_version
from orchestrator.cli.gateway import gateway
from orchestrator.cli.main import VERBS
from tests.deploy.container_files import (
    Compose,
    DaemonSet,
    Deployment,
    Instruction,
    Manifest,
    PodSpec,
    Service,
    read_dockerfile,
)

CONTAINERS, KUBERNETES = ROOT / "deploy" / "containers", ROOT / "deploy" / "kubernetes"
DOCKERFILES = sorted(CONTAINERS.glob("*.Dockerfile"))
KNOWN = {
    "FROM",
    "RUN",
    "COPY",
    "ENV",
    "WORKDIR",
    "USER",
    "VOLUME",
    "EXPOSE",
    "STOPSIGNAL",
    "HEALTHCHECK",
    "ENTRYPOINT",
    "CMD",
}
MANIFESTS: TypeAdapter[Any] = TypeAdapter(Manifest)


def manifests() -> Iterator[Any]:
    for file in sorted(KUBERNETES.glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            yield MANIFESTS.validate_python(document)


def pods() -> list[PodSpec]:
    return [found.spec.template.spec for found in manifests() if isinstance(found, Deployment | DaemonSet)]


def last_stage(instructions: list[Instruction]) -> list[Instruction]:
    start = max(index for index, found in enumerate(instructions) if found.name == "FROM")
    return instructions[start:]


# ---- Dockerfiles


def test_there_is_one_for_each_kind_of_machine() -> None:
    assert [file.name.partition(".")[0] for file in DOCKERFILES] == ["gateway", "node-jetson", "node-rtx", "node"]


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: str(file.name))
def test_an_image_is_pinned_runs_as_nobody_and_says_how_it_is(file: Path) -> None:
    instructions = read_dockerfile(file)
    assert {found.name for found in instructions} <= KNOWN
    for found in instructions:
        if found.name == "FROM":
            assert re.fullmatch(r"[a-z0-9./-]+:[A-Za-z0-9._-]*\d[A-Za-z0-9._-]*( AS build)?", found.words), found.words
    final = {found.name: found.words for found in last_stage(instructions)}
    assert final["USER"] == "10001:10001"
    assert final["VOLUME"] == "/var/lib/edgewise"
    role = "gateway" if file.name.startswith("gateway") else "node"
    assert final["HEALTHCHECK"].endswith(f'CMD ["python", "-m", "deploy.health", "{role}"]')
    json.loads(final["ENTRYPOINT"])
    json.loads(final["CMD"])
    # What compiles stays behind.
    assert not any("gcc" in found.words for found in last_stage(instructions))


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: str(file.name))
def test_what_is_copied_exists_and_what_apt_fetched_is_removed(file: Path) -> None:
    for found in read_dockerfile(file):
        if found.name == "COPY" and not found.words.startswith("--from"):
            *sources, _ = [word for word in found.words.split() if not word.startswith("--")]
            assert all((ROOT / source).exists() for source in sources)
        if "apt-get update" in found.words:
            assert "--no-install-recommends" in found.words
            assert "rm -rf /var/lib/apt/lists/*" in found.words
    assert (CONTAINERS / f"{file.name}.dockerignore").exists()


def test_docker_takes_them() -> None:
    if "EDGEWISE_BUILD_IMAGES" not in os.environ:
        pytest.skip("not run: images are built with EDGEWISE_BUILD_IMAGES=1, a Docker daemon and a network")
    for name in ("gateway", "node"):
        command = ["docker", "build", "-f", f"deploy/containers/{name}.Dockerfile", "-t", f"edgewise-{name}:test", "."]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]


# ---- Compose


@pytest.mark.parametrize("name", ["compose.yaml", "balena.docker-compose.yml"])
def test_compose_files_are_whole(name: str) -> None:
    compose = Compose.model_validate(yaml.safe_load((CONTAINERS / name).read_text()))
    for service in compose.services.values():
        context = (CONTAINERS / service.build.context).resolve() if name == "compose.yaml" else ROOT
        assert (context / service.build.dockerfile).is_file()
        assert {volume.partition(":")[0] for volume in service.volumes} <= set(compose.volumes)
        assert set(service.depends_on) <= set(compose.services)
        assert service.image is None or service.image.endswith(f":{project_version()}")


def test_compose_services_are_locked_down_and_only_the_gateway_is_reachable() -> None:
    compose = Compose.model_validate(yaml.safe_load((CONTAINERS / "compose.yaml").read_text()))
    for name, service in compose.services.items():
        assert service.read_only
        assert service.cap_drop == ("ALL",)
        assert service.security_opt == ("no-new-privileges:true",)
        assert bool(service.ports) == (name == "gateway")


# ---- Kubernetes


def test_manifests_are_whole_and_live_in_one_namespace() -> None:
    found = list(manifests())
    assert [one.kind for one in found] == ["Namespace", "PersistentVolumeClaim", "Service", "Deployment", "DaemonSet"]
    assert {one.metadata.namespace for one in found[1:]} == {found[0].metadata.name}
    assert found[0].metadata.labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_selectors_find_their_pods() -> None:
    found = list(manifests())
    labels = {}
    for one in found:
        if isinstance(one, Deployment | DaemonSet):
            assert one.spec.selector.matchLabels == one.spec.template.metadata["labels"]
            labels[one.metadata.name] = one.spec.template.metadata["labels"]
    (service,) = [one for one in found if isinstance(one, Service)]
    assert service.spec.selector == labels["gateway"]
    ports = {port.containerPort for pod in pods() for container in pod.containers for port in container.ports}
    assert {port.targetPort for port in service.spec.ports} == ports


def test_what_is_mounted_is_there_and_the_root_is_read_only() -> None:
    claims = {one.metadata.name for one in manifests() if one.kind == "PersistentVolumeClaim"}
    for pod in pods():
        volumes = {volume.name for volume in pod.volumes}
        mounted = {
            mount.name for container in (*pod.initContainers, *pod.containers) for mount in container.volumeMounts
        }
        assert mounted == volumes
        for volume in pod.volumes:
            assert volume.persistentVolumeClaim is None or volume.persistentVolumeClaim["claimName"] in claims


def test_the_operators_key_is_not_where_the_agent_runs() -> None:
    node = pods()[1]
    assert "operator" in {mount.name for mount in node.initContainers[0].volumeMounts}
    assert "operator" not in {mount.name for mount in node.containers[0].volumeMounts}
    assert not any("KEY" in variable.name for variable in node.containers[0].env)


def test_images_carry_the_projects_version() -> None:
    images = {container.image for pod in pods() for container in (*pod.initContainers, *pod.containers)}
    assert images == {f"edgewise-gateway:{project_version()}", f"edgewise-node:{project_version()}"}


def test_commands_and_flags_exist() -> None:
    text = "\n".join(file.read_text() for folder in (CONTAINERS, KUBERNETES) for file in folder.iterdir())
    named = set(re.findall(r"\bedgewise (gateway|node|token|key|status)\b", text))
    assert {"node", "token"} <= named <= set(VERBS)
    known = {flag for option in gateway.params for flag in option.opts}
    given = {word for pod in pods() for container in pod.containers for word in container.args if word[:2] == "--"}
    assert given
    assert given <= known


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"kind": "Deploymnt"}, "kind"),
        ({"apiVersion": "v1"}, "apiVersion"),
        ({"metadata": {"name": "Gate Way"}}, "name"),
        ({"spec": {}}, "replicas"),
    ],
)
def test_mistakes_in_manifests_would_be_found(change: dict[str, Any], where: str) -> None:
    documents = yaml.safe_load_all((KUBERNETES / "gateway.yaml").read_text())
    deployment = next(one for one in documents if one["kind"] == "Deployment")
    MANIFESTS.validate_python(deployment)
    with pytest.raises(ValidationError, match=where):
        MANIFESTS.validate_python({**deployment, **change})


def test_a_container_that_may_become_root_would_be_found() -> None:
    documents = yaml.safe_load_all((KUBERNETES / "gateway.yaml").read_text())
    deployment = next(one for one in documents if one["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] = False
    with pytest.raises(ValidationError, match="runAsNonRoot"):
        MANIFESTS.validate_python(deployment)


# ---- how a node's container begins


@pytest.fixture
def entry(tmp_path: Path) -> dict[str, str]:
    """An environment in which `edgewise` writes down what it was told."""
    command = tmp_path / "edgewise"
    command.write_text('#!/bin/sh\necho "$* token=${EDGEWISE_NODE_TOKEN:-none}"\n')
    command.chmod(0o755)
    return {"PATH": f"{tmp_path}:/usr/bin:/bin", "EDGEWISE_NODE_IDENTITY": str(tmp_path / "identity")}


def begin(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(CONTAINERS / "node-entry.sh"), *words], env=environment, capture_output=True, text=True)


def test_a_new_node_joins_once_and_its_agent_does_not_see_the_token(entry: dict[str, str], tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("K10x\n")
    told = {**entry, "EDGEWISE_JOIN_URL": "https://gw:8420", "EDGEWISE_NODE_TOKEN_FILE": str(token)}
    identity = entry["EDGEWISE_NODE_IDENTITY"]
    run = "node run --log json token=none"
    lines = begin(told, "--log", "json").stdout.splitlines()
    assert lines == [f"node join https://gw:8420 --identity {identity} --no-run token=K10x", run]
    Path(identity).mkdir()
    (Path(identity) / "node.pem").write_text("")
    assert begin(told, "--log", "json").stdout.splitlines() == [run]


def test_a_new_node_without_a_token_says_what_to_do(entry: dict[str, str]) -> None:
    done = begin({**entry, "EDGEWISE_JOIN_URL": "https://gw:8420"})
    assert done.returncode == 2
    assert "edgewise token create" in done.stderr
