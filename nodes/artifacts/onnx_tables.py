"""Field numbers of ONNX's messages (onnx.proto, IR versions 3 to 13), as far as a check needs them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

MODEL, GRAPH, NODE, ATTRIBUTE, TENSOR = "model", "graph", "node", "attribute", "tensor"
TYPE, VALUE, SHAPED, DIMS, DIM, PAIR, OPSET = "type", "value", "shaped", "dims", "dim", "pair", "opset"
SEQUENCE, MAP, QUANTISED = "sequence", "map", "quantised"
# What is a number or a text, and what is not taken whatever it holds.
PLAIN, REFUSED = "", "refused"


def _fields(plain: tuple[int, ...], **below: tuple[int, ...]) -> dict[int, str]:
    return dict.fromkeys(plain, PLAIN) | {number: kind for kind, numbers in below.items() for number in numbers}


# Every field that a message may have, and the kind of message that it holds; a field beside these is not known.
FIELDS: Mapping[str, Mapping[int, str]] = MappingProxyType(
    {
        MODEL: _fields((1, 2, 3, 4, 5, 6), graph=(7,), opset=(8,), pair=(14,), refused=(20, 25, 26)),
        GRAPH: _fields((2, 10), node=(1,), tensor=(5,), value=(11, 12, 13), quantised=(14,), pair=(16,), refused=(15,)),
        NODE: _fields((1, 2, 3, 4, 6, 7, 8), attribute=(5,), pair=(9,), refused=(10,)),
        ATTRIBUTE: _fields(
            (1, 2, 3, 4, 7, 8, 9, 13, 20, 21), tensor=(5, 10), graph=(6, 11), type=(14, 15), refused=(22, 23)
        ),
        TENSOR: _fields((1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14), pair=(13, 16), refused=(3,)),
        VALUE: _fields((1, 3), type=(2,), pair=(4,)),
        TYPE: _fields((6,), shaped=(1, 8), sequence=(4, 9), map=(5,), refused=(7,)),
        SEQUENCE: _fields((), type=(1,)),
        MAP: _fields((1,), type=(2,)),
        SHAPED: _fields((1,), dims=(2,)),
        DIMS: _fields((), dim=(1,)),
        DIM: _fields((1, 2, 3)),
        PAIR: _fields((1, 2)),
        OPSET: _fields((1, 2)),
        QUANTISED: _fields((1,), pair=(2,)),
    }
)

NODE_TYPE, NODE_DOMAIN = 4, 7
MODEL_IR, GRAPH_INITIALIZER = 1, 5
TENSOR_DIMS, TENSOR_TYPE, TENSOR_FLOATS, TENSOR_NAME, TENSOR_RAW, TENSOR_DOUBLES = 1, 2, 4, 8, 9, 10
TENSOR_VARINTS = (5, 7, 11)
TENSOR_OUTSIDE, TENSOR_LOCATION = 13, 14
DIM_VALUE = 1

STRING_TYPE = 8
# Bits of one element, by TensorProto.DataType; strings have no fixed size.
BITS: Mapping[int, int] = MappingProxyType(
    {
        **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),
        **dict.fromkeys((4, 5, 10, 16), 16),
        **dict.fromkeys((1, 6, 12), 32),
        **dict.fromkeys((7, 11, 13, 14), 64),
        15: 128,
        **dict.fromkeys((21, 22, 23), 4),
        **dict.fromkeys((25, 26), 2),
        **dict.fromkeys((27, 28), 6),
    }
)
# Those that numpy knows, for tensors that lie in another file.
NUMPY: Mapping[int, str] = MappingProxyType(
    {
        1: "float32",
        2: "uint8",
        3: "int8",
        4: "uint16",
        5: "int16",
        6: "int32",
        7: "int64",
        9: "bool",
        10: "float16",
        11: "float64",
    }
)
BFLOAT16 = 16
