"""Looks through a stranger's ONNX file before a runtime does: structure, operators, sizes, and where its tensors lie.

Its own reader of the wire format sees every occurrence of every field, so what ONNX Runtime will read is among what was
checked, whichever of two occurrences it takes. Fields that are not known here are refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nodes.artifacts import onnx_tables as t
from nodes.artifacts import onnx_tensors as tensors
from nodes.artifacts.manifest import Manifest
from nodes.artifacts.onnx_tensors import Outside, invalid
from nodes.errors import ArtifactRefused
from nodes.personal.protobuf import Damaged, fields, signed

DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
IR_VERSIONS = range(3, 14)


@dataclass(frozen=True)
class OnnxLimits:
    """What a file may hold.

    Attributes:
        max_depth: Graphs within graphs, counted in messages.
        max_fields: Of all messages together; bounds the time that looking takes.
        domains: Whose operators may be used; None takes any, which is for the tests of this check alone.
    """

    max_bytes: int = 2**31 - 1
    max_nodes: int = 100_000
    max_depth: int = 40
    max_fields: int = 4_000_000
    domains: tuple[str, ...] | None = DOMAINS


@dataclass
class OnnxReport:
    """What was found; `outside` are tensors that other files hold."""

    nodes: int = 0
    fields: int = 0
    graphs: int = 0
    outside: list[Outside] = field(default_factory=list)


def check_onnx(content: memoryview, manifest: Manifest, path: str, limits: OnnxLimits | None = None) -> OnnxReport:
    """Check a file.

    Args:
        content: All of it.
        manifest: Of the model that it belongs to.
        path: Its own place there.

    Raises:
        ArtifactRefused: ARTIFACT_INVALID, ARTIFACT_TOO_LARGE, ARTIFACT_PATH_ESCAPE, OP_NOT_ALLOWED or
            WEIGHTS_NOT_FINITE.

    Cost: a microsecond or two per field; numbers of weights are looked at once.
    """
    look = _Look(manifest, path, limits or OnnxLimits())
    if len(content) > look.limits.max_bytes:
        raise ArtifactRefused("ARTIFACT_TOO_LARGE", f"An ONNX file may have {look.limits.max_bytes} bytes.")
    try:
        look.message(t.MODEL, content, 0)
    except Damaged:
        raise invalid("it is cut off or damaged") from None
    except UnicodeDecodeError:
        raise invalid("a text is not UTF-8") from None
    if not look.report.graphs or look.ir not in IR_VERSIONS:
        raise invalid("it has no graph, or an unknown version")
    names = [one.name for one in look.report.outside]
    if len(set(names)) != len(names):
        raise invalid("two tensors in other files have the same name")
    return look.report


@dataclass
class _Look:
    manifest: Manifest
    path: str
    limits: OnnxLimits
    report: OnnxReport = field(default_factory=OnnxReport)
    ir: int = 0

    def message(self, kind: str, data: memoryview, depth: int) -> None:
        """Everything in one message."""
        if depth > self.limits.max_depth:
            raise ArtifactRefused("ARTIFACT_TOO_LARGE", "Graphs are nested too deeply.")
        if kind == t.TENSOR:
            self._tensor(data, weights=False)
            return
        self._note(kind)
        known, domain = t.FIELDS[kind], ""
        for number, value in fields(data):
            self._count()
            below = known.get(number)
            if below is None:
                raise invalid("it has a field that is not known")
            if below == t.REFUSED:
                text = "Functions, training, sparse tensors and opaque types are not taken; export a plain graph."
                raise ArtifactRefused("OP_NOT_ALLOWED", text)
            if below == t.PLAIN:
                domain = self._plain(kind, number, value) or domain
            elif isinstance(value, int):
                raise invalid("it has a number where a message belongs")
            elif kind == t.GRAPH and number == t.GRAPH_INITIALIZER:
                # Only the outermost graph is one message below the model.
                self._tensor(value, weights=True, may_lie_outside=depth == 1)
            else:
                self.message(below, value, depth + 1)
        if self.limits.domains is not None and domain not in self.limits.domains:
            raise ArtifactRefused("OP_NOT_ALLOWED", f"Operators must be ONNX's own ({', '.join(DOMAINS[1:])}).")

    def _note(self, kind: str) -> None:
        self.report.graphs += kind == t.GRAPH
        self.report.nodes += kind == t.NODE
        if self.report.nodes > self.limits.max_nodes:
            raise ArtifactRefused("ARTIFACT_TOO_LARGE", f"A model may have {self.limits.max_nodes} nodes.")

    def _count(self) -> None:
        self.report.fields += 1
        if self.report.fields > self.limits.max_fields:
            raise ArtifactRefused("ARTIFACT_TOO_LARGE", "The ONNX file has too many parts.")

    def _plain(self, kind: str, number: int, value: int | memoryview) -> str:
        """A number or a text; returns the domain of a node."""
        if kind == t.MODEL and number == t.MODEL_IR:
            self.ir = value if isinstance(value, int) else 0
        elif kind == t.DIM and number == t.DIM_VALUE and isinstance(value, int) and signed(value) < 0:
            raise invalid("a shape has a negative size")
        elif kind == t.NODE and number == t.NODE_DOMAIN:
            if isinstance(value, int):
                raise invalid("it has a number where a text belongs")
            return bytes(value[:256]).decode()
        return ""

    def _tensor(self, data: memoryview, *, weights: bool, may_lie_outside: bool = False) -> None:
        self._count()
        tensor = tensors.read_tensor(data)
        if not tensor.pairs and tensor.locations <= {0}:
            tensors.check_inside(tensor, weights=weights)
        elif may_lie_outside:
            self.report.outside.append(tensors.outside(tensor, self.manifest, self.path))
        else:
            # Says so where it also leads outside: that is the worse of the two.
            tensors.outside(tensor, self.manifest, self.path)
            raise invalid("only weights of the main graph may lie in another file")
