"""What the command `compile` does: experts of a catalogue, or one model with its inputs in a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.compile.forms import AUTO, parse_wishes
from nodes.compile.offering import compiled_arms
from nodes.compile.pipeline import LABELS, Bounds, Compiled, Subject
from nodes.compile.room import Tools, pipeline
from nodes.errors import ConfigError
from nodes.inventory import load_inventory, read_catalogs
from nodes.zoo.arrays import read_arrays
from nodes.zoo.catalog import Catalog

Progress = Callable[[str], None]


def compiled_files(
    forms: Sequence[str], given: Mapping[str, Any], *, progress: Progress
) -> Iterator[tuple[str, Compiled]]:
    """Every form that passed, by the name of its model.

    Args:
        given: The command's options by name.

    Raises:
        ConfigError: The options do not fit together.
        CompileError: A form cannot be made here, or loses too much.
    """
    tools = Tools(
        given["worker_python"] or Path(sys.executable), given["gpu_python"], given["folder"], given["cache_mib"]
    )
    wishes = parse_wishes(forms)
    with pipeline(tools, Bounds(given["loss_points"], given["target"]), progress) as opened:
        if given["onnx"] is None:
            names = tuple(name.strip() for name in (given["experts"] or "").split(",") if name.strip())
            inventory = load_inventory(given["models"], names)
            catalogs = [one for one in read_catalogs(given["models"]) if isinstance(one, Catalog)]
            for arm, compiled in compiled_arms(inventory, catalogs, wishes, opened):
                yield arm.expert, compiled
            return
        subject = subject_of_file(given["onnx"], given["inputs"])
        for wish in wishes:
            if wish.form is None or wish.expert:
                raise ConfigError(f"compile --onnx: name forms, neither experts nor {AUTO}")
            yield subject.name, opened.compiled(subject, wish.form)


def subject_of_file(file: Path, inputs: Path | None) -> Subject:
    """A model and its inputs from files: the first half calibrates, the second is held out.

    Raises:
        ConfigError: A file is missing, or the arrays do not fit together.
    """
    if inputs is None:
        raise ConfigError("compile --onnx: give --inputs with an array for each of the model's inputs")
    arrays = _arrays(inputs)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"--onnx: {file}: {(error.strerror or 'unknown cause').lower()}") from error
    labels_n = arrays.pop(LABELS, None)
    count = _count(inputs, arrays, labels_n)
    first, second = slice(0, count // 2), slice(count // 2, count)
    return Subject(
        file.stem,
        file,
        sha256(content).hexdigest(),
        {name: array[first] for name, array in arrays.items()},
        {name: array[second] for name, array in arrays.items()},
        None if labels_n is None else labels_n[second],
    )


def exported(given: Mapping[str, Any]) -> str:
    """Export a PyTorch model to `--onnx`; a line that says how well both agree.

    Raises:
        ConfigError: Something is missing, or the model cannot be exported.
    """
    from nodes.compile.torch_export import Export, export

    if given["onnx"] is None or given["inputs"] is None:
        raise ConfigError("compile --from-torch: give --onnx for the model and --inputs with an array for each input")
    arrays = _arrays(given["inputs"])
    arrays.pop(LABELS, None)
    difference = export(Export(given["from_torch"], given["weights"], given["onnx"]), arrays)
    return f"{given['onnx']}: answers differ from PyTorch's by {difference:.2g} at most"


def _arrays(file: Path) -> dict[str, NDArray[Any]]:
    try:
        return read_arrays(file)
    except OSError as error:
        raise ConfigError(f"--inputs: {file}: {(error.strerror or 'unknown cause').lower()}") from error
    except (ValueError, AttributeError) as error:  # A file of one array has no names.
        raise ConfigError(f"--inputs: {file} is no .npz of plain arrays; write it with numpy.savez") from error


def _count(file: Path, arrays: Mapping[str, NDArray[Any]], labels_n: NDArray[Any] | None) -> int:
    counts = {
        len(array) if array.ndim else 0 for array in (*arrays.values(), *(() if labels_n is None else (labels_n,)))
    }
    if len(counts) != 1 or min(counts) < 2:
        raise ConfigError(f"{file}: every array must have the same number of samples, at least 2")
    if not all(np.isfinite(array).all() for array in arrays.values() if array.dtype.kind == "f"):
        raise ConfigError(f"{file}: an input is not finite")
    return counts.pop()
