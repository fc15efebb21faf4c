"""The service of models: thin translations between messages and the desk."""

from __future__ import annotations

from typing import Any

from edgewise.v1 import models_pb2 as pb
from edgewise.v1 import models_pb2_grpc
from orchestrator.artifacts.blobs import MAX_CHUNK_BYTES
from orchestrator.artifacts.desk import ModelDesk
from orchestrator.artifacts.types import ModelStatus
from orchestrator.artifacts.wire import MAX_FILE_BYTES, check_digest, decode_manifest, encode_status
from orchestrator.errors import RequestError
from orchestrator.wire import check_name

MAX_TARGETS = 512


class ModelsServicer(models_pb2_grpc.ModelsServicer):
    """What operators call to push models."""

    def __init__(self, desk: ModelDesk) -> None:
        self._desk = desk

    async def PushModel(self, request: pb.PushModelRequest, context: Any) -> pb.PushModelResponse:
        """See models.proto."""
        if len(request.nodes) > MAX_TARGETS:
            raise RequestError("FIELD_OUT_OF_RANGE", f"Name at most {MAX_TARGETS} nodes, or none for all.")
        nodes = sorted({check_name(node, "nodes") for node in request.nodes})
        outcome = await self._desk.push(decode_manifest(request.manifest), nodes)
        if isinstance(outcome, ModelStatus):
            return pb.PushModelResponse(model=encode_status(outcome))
        missing = [pb.MissingBlob(sha256=one.sha256, offset=one.offset) for one in outcome]
        return pb.PushModelResponse(missing=missing)

    async def PutChunk(self, request: pb.PutChunkRequest, context: Any) -> pb.PutChunkResponse:
        """See models.proto."""
        sha256 = check_digest(request.sha256, "sha256")
        if not 0 < request.size_bytes <= MAX_FILE_BYTES:
            raise RequestError("ARTIFACT_TOO_LARGE", "A file must hold 1 byte to 1 TiB.", field="size_bytes")
        if not 0 < len(request.data) <= MAX_CHUNK_BYTES:
            raise RequestError("FIELD_OUT_OF_RANGE", f"data must hold 1 to {MAX_CHUNK_BYTES} bytes.", field="data")
        arrived = await self._desk.put(sha256, request.size_bytes, request.offset, request.data)
        return pb.PutChunkResponse(offset=arrived)

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        """See models.proto."""
        return pb.ListModelsResponse(models=[encode_status(status) for status in self._desk.models()])

    async def RemoveModel(self, request: pb.RemoveModelRequest, context: Any) -> pb.RemoveModelResponse:
        """See models.proto."""
        status = await self._desk.remove(check_name(request.name, "name"))
        return pb.RemoveModelResponse(model=encode_status(status))
