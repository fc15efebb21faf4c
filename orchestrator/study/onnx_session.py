"""Encoders from files: ONNX Runtime on one thread of the CPU.

The file is not trusted: its size is bounded, it may name no other file, and it runs without custom code.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from orchestrator.errors import ExitCode
from orchestrator.study.errors import StudyError
from orchestrator.study.onnx_file import has_external_data

MAX_MODEL_BYTES = 1 << 30
WHAT = "encoder refused"
INSTALL = "pip install 'edgewise[encoder]'"


def open_model(model: Path) -> tuple[Any, bytes]:
    """A session of a model, and the bytes of its file.

    Raises:
        StudyError: Not there, too large, not an ONNX file, with tensors in other files, or not loaded by the runtime;
            or that is not installed.
    """
    data = read_bounded(model, MAX_MODEL_BYTES)
    try:
        outside = has_external_data(data)
    except ValueError as error:
        raise StudyError(f"{model.name}: it is not an ONNX file", "export it again", what=WHAT) from error
    if outside:
        cure = "export it with its weights inside"
        raise StudyError(f"{model.name}: its tensors lie in other files (external data)", cure, what=WHAT)
    return _session(model, data), data


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """What a file holds.

    Raises:
        StudyError: Not there, not readable, or larger than that.
    """
    if not path.is_file():
        raise StudyError(f"{path}: no such file", "check the path", what="file not found", exit_code=ExitCode.NOT_FOUND)
    try:
        with path.open("rb") as stream:
            data = stream.read(limit_bytes + 1)
    except OSError as error:
        why = f"{path.name}: {(error.strerror or 'cannot be read').lower()}"
        raise StudyError(why, "check its permissions", what=WHAT) from error
    if len(data) > limit_bytes:
        raise StudyError(f"{path.name}: it is larger than {limit_bytes >> 20} MiB", "give a smaller one", what=WHAT)
    return data


def _session(model: Path, data: bytes) -> Any:
    # ONNX Runtime's Linux packages report usage to their maker unless told not to.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise StudyError("encoders need onnxruntime", INSTALL, what="not installed") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Failures are told by us, in one line.
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(data, sess_options=options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the rim: the runtime makes its exceptions' classes as it goes
        why = f"{model.name}: the runtime does not load it: {str(error).splitlines()[0][:160]}"
        raise StudyError(why, "export it again, without custom operators", what=WHAT) from error
