"""Who may import whom, checked on the syntax of every file: the map of the repository that cannot go stale."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("orchestrator", "nodes", "optimizer", "kernels", "deploy")
OURS = (*ROOMS, "tests", "edgewise")
MAX_LINES = 400

# What each room may import besides the standard library and itself; None allows every installed package.
FIRST_PARTY = {
    "orchestrator": {"optimizer", "edgewise"},
    "nodes": {"kernels", "edgewise"},
    "optimizer": set[str](),
    "kernels": set[str](),
    "deploy": {"orchestrator", "nodes", "optimizer", "kernels", "edgewise"},
}
# Leaves compute: what they need of the world comes in as arguments.
THIRD_PARTY = {
    "optimizer": {"numpy", "scipy", "numba", "cvxpy"},
    "kernels": {"numpy", "torch", "triton"},
    "nodes.worker": {"numpy", "onnxruntime", "kernels"},
}
NO_WORLD = {
    "asyncio",
    "datetime",
    "http",
    "io",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "shutil",
    "signal",
    "socket",
    "sqlite3",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib",
}
# Modules that may hold generated messages, and why; everything else speaks in frozen types.
GENERATED = {
    "orchestrator.wire": "the gateway's translation",
    "orchestrator.fleet.wire": "what nodes say, checked",
    "orchestrator.client.wire": "the client's translation",
    "orchestrator.client.admin.wire": "the client's translation of what operators call",
    "orchestrator.gateway.app": "registers the services",
    "orchestrator.gateway.servicers": "the services",
    "orchestrator.gateway.account_servicers": "quotas, keys and history as messages",
    "orchestrator.client.accounts": "the client's translation of quotas, keys and history",
    "orchestrator.gateway.ports": "registers the services of the nodes' port",
    "orchestrator.identity.servicers": "tokens and identities as messages",
    "orchestrator.identity.sentry": "tells a node why its stream ends",
    "orchestrator.client.identity": "the client's translation of tokens and identities",
    "orchestrator.gateway.join": "reads a node's stream",
    "orchestrator.gateway.requests": "client messages to queries",
    "orchestrator.gateway.replies": "replies and explanations to messages",
    "orchestrator.gateway.explaining": "explanations with what figures of texts add to them",
    "orchestrator.gateway.model_orders": "makes the message of an order about memory",
    "orchestrator.gateway.report": "state to messages",
    "orchestrator.fleet.session": "queues commands for a node's stream",
    "orchestrator.execution.attempt": "makes the message of a piece of work",
    "orchestrator.execution.run": "fills tensors into it",
    "orchestrator.execution.course": "fills text into it",
    "orchestrator.execution.ensemble": "makes the messages of turns",
    "orchestrator.execution.averaging": "makes the messages of turns",
    "nodes.wire": "the node's translation of tensors",
    "nodes.agent.wire": "the agent's translation",
    "nodes.agent.turn_wire": "the agent's translation of what concerns texts that several nodes write",
    "nodes.identity.wire": "renews a certificate",
    "nodes.agent.personal_wire": "the agent's translation of what concerns users' own experts",
    "orchestrator.personal.wire": "the gateway's translation of what concerns users' own experts",
    "orchestrator.artifacts.wire": "the gateway's translation of what concerns pushed models",
    "orchestrator.artifacts.desk": "remembers which command it sent last",
    "orchestrator.artifacts.servicers": "pushing as messages",
    "orchestrator.client.models": "the client's translation of pushed models",
    "nodes.agent.model_wire": "the agent's translation of what concerns pushed models",
    "orchestrator.client.personal": "the client's translation of what concerns users' own experts",
}
DRAWERS = {"utils", "util", "common", "helpers", "helper", "misc"}
NEVER = {"pickle", "cPickle", "cloudpickle", "dill", "shelve", "marshal"}


@dataclass(frozen=True)
class Module:
    """One file: its dotted name, what it imports (dotted), and the dotted calls in it."""

    name: str
    imports: frozenset[str]
    calls: frozenset[str]
    lines: int


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of an expression, '' for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return ""


def _imports(tree: ast.AST, package: list[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, node.module] if node.module else base)
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and dotted(node.func) in ("__import__", "importlib.import_module"):
            yield from (str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def parse(name: str, source: str, *, is_package: bool = False) -> Module:
    """A module of this dotted name."""
    tree = ast.parse(source)
    package = name.split(".") if is_package else name.split(".")[:-1]
    calls = frozenset(dotted(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call))
    return Module(name, frozenset(_imports(tree, package)), calls, source.count("\n"))


def _load(path: Path) -> Module:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    is_package = parts[-1] == "__init__"
    return parse(".".join(parts[:-1] if is_package else parts), path.read_text(), is_package=is_package)


MODULES = [_load(path) for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def top(name: str) -> str:
    """The first part of a dotted name."""
    return name.partition(".")[0]


def forbidden_imports(module: Module) -> set[str]:
    """Imports of our own rooms that the table does not allow."""
    room = top(module.name)
    allowed = FIRST_PARTY[room] | {room}
    return {name for name in module.imports if top(name) in OURS and top(name) not in allowed}


def foreign_imports(module: Module, prefix: str) -> set[str]:
    """Imports that are neither ours nor the standard library's nor allowed below `prefix`."""
    outside = {name for name in module.imports if top(name) not in sys.stdlib_module_names}
    return {name for name in outside if top(name) not in THIRD_PARTY[prefix] and not name.startswith(prefix)}


def uses_generated(module: Module) -> bool:
    """Whether a module imports generated messages."""
    return any(name == "edgewise" or name.startswith("edgewise.") for name in module.imports)


def serialises_code(module: Module) -> set[str]:
    """What a module uses that can run code hidden in data."""
    found = {name for name in module.imports if top(name) in NEVER or name.split(".")[-1] in NEVER}
    return found | {call for call in module.calls if call in ("torch.load", "pickle.loads", "pickle.load")}


def below(prefix: str) -> list[Module]:
    """All modules of a package."""
    return [module for module in MODULES if module.name == prefix or module.name.startswith(f"{prefix}.")]


def test_there_is_something_to_check() -> None:
    assert {top(module.name) for module in MODULES} == set(ROOMS)
    assert len(MODULES) > 100


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_the_table_allows(room: str) -> None:
    assert {module.name: names for module in below(room) if (names := forbidden_imports(module))} == {}


@pytest.mark.parametrize("prefix", THIRD_PARTY)
def test_leaves_use_few_packages(prefix: str) -> None:
    assert {module.name: names for module in below(prefix) if (names := foreign_imports(module, prefix))} == {}


def test_optimizer_has_no_clock_no_files_no_chance() -> None:
    worldly = {m.name: found for m in below("optimizer") if (found := {top(name) for name in m.imports} & NO_WORLD)}
    assert worldly == {}
    calls = {call for module in below("optimizer") for call in module.calls}
    assert not calls & {"open", "print", "input", "np.load", "np.save", "np.random.seed", "np.random.rand"}


def test_generated_messages_stay_where_they_are_translated() -> None:
    users = {module.name for module in MODULES if uses_generated(module)}
    assert users == set(GENERATED)


def test_nothing_runs_code_that_hides_in_data() -> None:
    assert {module.name: found for module in MODULES if (found := serialises_code(module))} == {}
    loose = [m.name for m in MODULES for call in m.calls if call.endswith("np.load") and not _refuses_pickle(m.name)]
    assert loose == []


def _refuses_pickle(name: str) -> bool:
    source = (ROOT / (name.replace(".", "/") + ".py")).read_text()
    loads = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and dotted(node.func) == "np.load"
    ]
    return all(any(word.arg == "allow_pickle" for word in node.keywords) for node in loads) and (
        "allow_pickle=True" not in source
    )


def test_no_module_is_a_drawer() -> None:
    assert [module.name for module in MODULES if set(module.name.split(".")) & DRAWERS] == []


def test_no_file_grows_out_of_sight() -> None:
    assert {module.name: module.lines for module in MODULES if module.lines > MAX_LINES} == {}


def test_no_other_distribution_takes_our_names() -> None:
    providers = packages_distributions()
    assert {name: providers[name] for name in OURS if set(providers.get(name, [])) - {"edgewise"}} == {}


# ---- controls: each rule finds what it is for


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("orchestrator.x", "import nodes.agent"),
        ("nodes.x", "from orchestrator.errors import EdgewiseError"),
        ("nodes.x", "def later():\n    from optimizer import solve"),
        ("optimizer.x", "from edgewise.v1 import fleet_pb2"),
        ("orchestrator.x", "import importlib\nimportlib.import_module('tests.fakes')"),
        ("kernels.x", "from deploy import stubs"),
    ],
)
def test_a_forbidden_import_is_found(name: str, source: str) -> None:
    assert forbidden_imports(parse(name, source))


@pytest.mark.parametrize("source", ["from . import wire", "from .wire import thing", "from ..wire import thing"])
def test_relative_imports_are_resolved(source: str) -> None:
    (name,) = parse("nodes.agent.session", source).imports
    assert top(name) == "nodes"


@pytest.mark.parametrize(
    "source", ["import pickle", "from multiprocessing import pickle", "import torch\ntorch.load(1)"]
)
def test_hidden_code_is_found(source: str) -> None:
    assert serialises_code(parse("nodes.x", source))


def test_foreign_packages_and_generated_messages_are_found() -> None:
    assert foreign_imports(parse("optimizer.x", "import pandas"), "optimizer") == {"pandas"}
    assert uses_generated(parse("orchestrator.x", "import edgewise.v1.fleet_pb2 as f"))
