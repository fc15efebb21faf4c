"""What bytes really are, whatever their file is called: only to say why they are not taken. Nothing is unpacked."""

from __future__ import annotations

from nodes.errors import ArtifactRefused

USE = "Use safetensors or ONNX."
HEAD_BYTES = 4096
TAIL_BYTES = 65_557  # The longest that the end of a zip archive can be.
TAR_AT, TAR = 257, b"ustar"
ZIP_END = b"PK\x05\x06"

ARCHIVES = {
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\x00": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a rar archive",
}
ENGINES = {b"ftrt": "a TensorRT engine", b"ptrt": "a TensorRT engine"}
OTHERS = {
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"#!": "a script",
    b"\x89HDF": "HDF5",
    b"GGUF": "GGUF",
    b"\x93NUMPY": "a numpy array",
}


def refuse_foreign(content: memoryview, name: str) -> None:
    """Refuse what is clearly something else than ONNX or safetensors.

    Raises:
        ArtifactRefused: FORMAT_NOT_ALLOWED, ARCHIVE_UNSAFE or ENGINE_NOT_LOCAL.
    """
    head, tail = bytes(content[:HEAD_BYTES]), bytes(content[-TAIL_BYTES:])
    for mark, what in ENGINES.items():
        if head.startswith(mark):
            text = f"{name} is {what}; engines are built on the node that runs them. {USE}"
            raise ArtifactRefused("ENGINE_NOT_LOCAL", text)
    for mark, what in OTHERS.items():
        if head.startswith(mark):
            raise ArtifactRefused("FORMAT_NOT_ALLOWED", f"{name} is {what}. {USE}")
    # PyTorch's files are zip archives around a pickle.
    if head.startswith(b"PK\x03\x04") and b"data.pkl" in head:
        raise ArtifactRefused("FORMAT_NOT_ALLOWED", f"{name} is a pickle in an archive. {USE}")
    for mark, what in ARCHIVES.items():
        if head.startswith(mark):
            raise ArtifactRefused("ARCHIVE_UNSAFE", f"{name} is {what}; push the files themselves. {USE}")
    if head[TAR_AT : TAR_AT + len(TAR)] == TAR:
        raise ArtifactRefused("ARCHIVE_UNSAFE", f"{name} is a tar archive; push the files themselves. {USE}")
    if _ends_as_zip(tail):
        raise ArtifactRefused("FORMAT_NOT_ALLOWED", f"{name} is also a zip archive. {USE}")


def _ends_as_zip(tail: bytes) -> bool:
    """Whether a zip reader would take this, whatever stands before it."""
    at = tail.rfind(ZIP_END)
    return at >= 0 and len(tail) >= at + 22 and at + 22 + int.from_bytes(tail[at + 20 : at + 22], "little") == len(tail)
