"""The state of a decoder between its blocks, as one more output of its graph. Needs Python 3.10 and nothing else.

The experts that ship name their tensors as the exporter named them; a file with other names has no such output.
"""

from __future__ import annotations

# What a block reads: the state that the block before it left, scaled to one length and by the block's own weights.
BLOCK_READS = "/blocks.{}/attention_norm/Mul_2_output_0"
# Fields of ONNX's protobuf messages, and the type of a tensor of float32 with three free dimensions.
MODEL_GRAPH, GRAPH_OUTPUT, VALUE_NAME, VALUE_TYPE = 7, 12, 1, 2
FLOATS = b"\x0a\x0a\x08\x01\x12\x06" + b"\x0a\x00" * 3


def middle_of(model: bytes) -> str | None:
    """Name of the tensor that the first block of the second half reads; None where there is none."""
    blocks = 0
    while BLOCK_READS.format(blocks).encode() in model:
        blocks += 1
    return BLOCK_READS.format((blocks + 1) // 2) if blocks > 1 else None


def with_output(model: bytes, tensor: str) -> bytes:
    """The same model with one more output: messages of protobuf that follow each other are one."""
    value = _field(VALUE_NAME, tensor.encode()) + _field(VALUE_TYPE, FLOATS)
    return model + _field(MODEL_GRAPH, _field(GRAPH_OUTPUT, value))


def _field(number: int, data: bytes) -> bytes:
    if len(data) > 127:
        raise ValueError("lengths of more than one byte are not written")
    return bytes([number << 3 | 2, len(data)]) + data
