"""The stand-in for TensorRT has the names and signatures of the real module, where that is installed.

Only running an engine needs a GPU, so only that is left to the stand-in alone; what it is called with must be what the
real module takes. CI runs this in the environment of the extra `rtx`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.gpu import setup

FAKE = setup.HERE / "tensorrt_rtx.py"
# What the builder and the engine hand out has no public name in the stand-in.
REAL_NAMES = {
    "Network": "INetworkDefinition",
    "Profile": "IOptimizationProfile",
    "TimingCache": "ITimingCache",
    "Config": "IBuilderConfig",
    "Engine": "ICudaEngine",
    "Context": "IExecutionContext",
    "_Problem": "ParserError",
    "_Input": "ITensor",
}
# What the worker reads and sets without a call; the stand-in has some of it as plain attributes.
READ = {
    "INetworkDefinition": {"num_inputs", "num_outputs"},
    "ITensor": {"name", "shape"},
    "IBuilderConfig": {"num_compute_capabilities", "progress_monitor"},
    "OnnxParser": {"num_errors"},
    "ICudaEngine": {"num_io_tensors"},
}
# Made by the module itself, never by whoever uses it.
HANDED_OUT = set(REAL_NAMES)


def classes() -> dict[str, ast.ClassDef]:
    return {node.name: node for node in ast.parse(FAKE.read_text()).body if isinstance(node, ast.ClassDef)}


def methods(node: ast.ClassDef) -> Iterator[tuple[str, list[str], bool]]:
    """Name, parameters without `self`, and whether it is read like an attribute."""
    for one in node.body:
        if isinstance(one, ast.FunctionDef) and (one.name == "__init__" or not one.name.startswith("_")):
            read = any(isinstance(mark, ast.Name) and mark.id == "property" for mark in one.decorator_list)
            yield one.name, [argument.arg.lstrip("_") for argument in one.args.args[1:]], read


def attributes(node: ast.ClassDef) -> set[str]:
    """Names that instances or the class have without a call, but for private ones."""
    found = {
        target.id
        for one in node.body
        if isinstance(one, ast.Assign)
        for target in one.targets
        if isinstance(target, ast.Name)
    }
    return {name for name in found if not name.startswith("_")}


def signatures(documented: str, name: str) -> list[list[str]]:
    """Parameters without `self` of every overload, read from what the bindings say of themselves."""
    lines = [line.split(". ", 1)[-1] for line in documented.splitlines() if f"{name}(self" in line]
    return [re.findall(r"(?:^|, )(\w+): ", line.partition("(")[2].rpartition(") ->")[0])[1:] for line in lines]


def takes(real: list[str], fake: list[str], documented: str) -> bool:
    """Whether a real signature is called as the stand-in is: the same names in order, more only with defaults."""
    more = real[len(fake) :]
    return real[: len(fake)] == fake and all(re.search(rf"\b{name}: [^=]*=", documented) for name in more)


def test_signatures_are_read_from_the_bindings_words() -> None:
    told = (
        "f(*args)\nOverloaded function.\n\n1. f(self: m.C, name: str, shape: tuple) -> bool\n\n2. f(self: m.C) -> int"
    )
    assert signatures(told, "f") == [["name", "shape"], []]
    assert signatures("f(self: m.L, least: m.S = <S.WARNING: 2>) -> None", "f") == [["least"]]
    assert takes(["model", "path"], ["model"], "parse(self: P, model: Buffer, path: str = None) -> bool")
    # Controls: another order, another name, one more that must be given.
    assert not takes(["b", "a"], ["a", "b"], "")
    assert not takes(["model"], ["content"], "")
    assert not takes(["model", "path"], ["model"], "parse(self: P, model: Buffer, path: str) -> bool")


@pytest.fixture(scope="module")
def real() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="not run: the module tensorrt_rtx is not installed")


@pytest.mark.parametrize("name", classes())
def test_the_stand_in_is_called_as_the_module_is(real: Any, name: str) -> None:
    node, theirs = classes()[name], getattr(real, REAL_NAMES.get(name, name))
    assert Path(real.__file__).resolve() != FAKE.resolve()
    for constant in attributes(node):
        assert hasattr(theirs, constant), constant
    for method, parameters, read in methods(node):
        if method == "__init__" and name in HANDED_OUT:
            continue
        assert hasattr(theirs, method), method
        documented = getattr(theirs, method).__doc__ or ""
        if read:
            assert isinstance(getattr(theirs, method), property), method
        else:
            found = signatures(documented, method)
            assert any(takes(one, parameters, documented) for one in found), (method, parameters, found)


def test_functions_of_the_module_are_there(real: Any) -> None:
    told = [node.name for node in ast.parse(FAKE.read_text()).body if isinstance(node, ast.FunctionDef)]
    assert {name for name in told if not name.startswith("_")} == {"nptype"}
    assert callable(real.nptype)
    for owner, names in READ.items():
        assert all(isinstance(getattr(getattr(real, owner), name), property) for name in names), owner
    assert hasattr(real, "IProgressMonitor")
