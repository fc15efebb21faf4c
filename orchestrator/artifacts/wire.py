"""What is said about models, to protobuf and back; everything that comes in is checked here."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgewise.v1 import fleet_pb2, models_pb2
from orchestrator.artifacts.types import STATES, Manifest, ModelFile, ModelReport, ModelStatus, OnNode
from orchestrator.errors import RequestError
from orchestrator.wire import check_name

MAX_FILES = 64
MAX_PATH_CHARS = 200
MAX_FILE_BYTES = 1 << 40
MAX_TEXT = 200
DIGEST = re.compile(r"[0-9a-f]{64}")
# Letters of other alphabets look like these, and case is no difference everywhere: neither is allowed.
PATH_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
# Names that are devices on some systems, whatever follows their dot.
DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def check_digest(text: str, field: str) -> str:
    """A digest.

    Raises:
        RequestError: DIGEST_INVALID.
    """
    if not DIGEST.fullmatch(text):
        raise RequestError("DIGEST_INVALID", f"{field} must be 64 of 0-9 and a-f.", field=field)
    return text


def check_path(text: str, field: str) -> str:
    """The path of a file within its model.

    Raises:
        RequestError: ARTIFACT_PATH_ESCAPE where it could lead out, NAME_INVALID where it is not spelled right.
    """
    parts = text.split("/")
    if text.startswith("/") or "\\" in text or ":" in text or ".." in parts:
        raise RequestError("ARTIFACT_PATH_ESCAPE", "A file's path must stay within its model's folder.", field=field)
    spelled = all(PATH_PART.fullmatch(part) and not DEVICES.fullmatch(part) for part in parts)
    if not spelled or len(text) > MAX_PATH_CHARS:
        text = "A file's path must be names of a-z, A-Z, 0-9, '.', '_' and '-', joined by '/'."
        raise RequestError("NAME_INVALID", text, field=field)
    return text


def decode_manifest(message: models_pb2.ModelManifest) -> Manifest:
    """A manifest, checked.

    Raises:
        RequestError: NAME_INVALID, DIGEST_INVALID, ARTIFACT_PATH_ESCAPE, ARTIFACT_INVALID or FIELD_OUT_OF_RANGE.
    """
    if not 0 < len(message.files) <= MAX_FILES:
        raise RequestError("ARTIFACT_INVALID", f"A model has 1 to {MAX_FILES} files.", field="manifest.files")
    files = tuple(_file(file, f"manifest.files[{index}]") for index, file in enumerate(message.files))
    if len({file.path.lower() for file in files}) != len(files):
        text = "Two files have the same path, or paths that differ in case only."
        raise RequestError("ARTIFACT_INVALID", text, field="manifest.files")
    return Manifest(check_name(message.name, "manifest.name"), check_name(message.task, "manifest.task"), files)


def _file(message: models_pb2.ModelFile, field: str) -> ModelFile:
    if not 0 < message.size_bytes <= MAX_FILE_BYTES:
        reason = "ARTIFACT_TOO_LARGE" if message.size_bytes else "ARTIFACT_INVALID"
        raise RequestError(reason, "A file must hold 1 byte to 1 TiB.", field=f"{field}.size_bytes")
    path = check_path(message.path, f"{field}.path")
    return ModelFile(path, check_digest(message.sha256, f"{field}.sha256"), message.size_bytes)


def encode_manifest(manifest: Manifest) -> models_pb2.ModelManifest:
    """The message for a manifest."""
    files = [
        models_pb2.ModelFile(path=file.path, sha256=file.sha256, size_bytes=file.size_bytes) for file in manifest.files
    ]
    return models_pb2.ModelManifest(name=manifest.name, task=manifest.task, files=files)


def encode_status(status: ModelStatus) -> models_pb2.ModelStatus:
    """The message for how far a model is."""
    on_nodes = [
        models_pb2.ModelOnNode(
            node=one.node,
            state=one.state,
            received_bytes=one.received_bytes,
            reason=one.reason,
            message=one.message,
        )
        for one in status.on_nodes
    ]
    return models_pb2.ModelStatus(
        manifest=encode_manifest(status.record.manifest),
        digest=status.record.manifest.digest,
        pushed_unix_s=status.record.pushed_unix_s,
        nodes=status.record.nodes,
        on_nodes=on_nodes,
    )


def decode_report(node: str, message: fleet_pb2.ModelReport) -> ModelReport:
    """What a node says about a model; texts are bounded, an unknown state is "failed"."""
    state = message.state if message.state in STATES else "failed"
    reason, text = message.reason[:64], message.message[:MAX_TEXT]
    on_node = OnNode(node, state, message.received_bytes, reason, text)
    return ModelReport(message.name[:64], message.digest[:64], on_node)


def wanted_command(manifests: Sequence[Manifest]) -> fleet_pb2.NodeCommand:
    """The command that tells a node all models that it is to have."""
    models = [encode_manifest(manifest) for manifest in manifests]
    return fleet_pb2.NodeCommand(models_wanted=fleet_pb2.ModelsWanted(models=models))


def chunk_command(sha256: str, offset: int, data: bytes) -> fleet_pb2.NodeCommand:
    """The command that brings bytes of a blob."""
    return fleet_pb2.NodeCommand(model_chunk=fleet_pb2.ModelChunk(sha256=sha256, offset=offset, data=data))
