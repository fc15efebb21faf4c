"""A network by everything that runs it on a GPU: ONNX Runtime's CUDA provider, PyTorch as written, and torch.compile.

VGG16 on pictures of 32 x 32, batch 1, 8 and 32, single precision without TF32. One run, everybody in turns; a time runs
from an array of the host to an array of the host. Answers are compared first. Not run by us: no GPU was at hand.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nodes.compile.torch_export import Export, export
from tests.bench.harness import NOT_RUN, Bar, Row, spread

LAYERS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
CLASSES, SIDE = 10, 32
BATCHES = (1, 8, 32)
ROUNDS, WARM_UP = 100, 10

# Of speed there are none: nobody has run it.
BARS = (Bar("cuda_forms_max_error", 1e-3, "<="),)

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def vgg16() -> Any:
    """The network with random weights: what is measured does not depend on them. 0 in `LAYERS` halves the side."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    parts: list[nn.Module] = []
    width = 3
    for channels in LAYERS:
        parts += [nn.MaxPool2d(2)] if not channels else [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU()]
        width = channels or width
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(width, CLASSES)).eval()


def require_gpu() -> str:
    """The GPU's name; else exit 77 saying what was not run."""
    try:
        import onnxruntime
        import torch
    except ImportError as missing:
        print(f"not run: {missing}")
        raise SystemExit(NOT_RUN) from missing
    if not torch.cuda.is_available():
        print("not run: no GPU")
        raise SystemExit(NOT_RUN)
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        print("not run: this onnxruntime has no CUDA (pip install 'edgewise[node-cuda]')")
        raise SystemExit(NOT_RUN)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    return str(torch.cuda.get_device_name())


def run() -> list[Row]:
    """All batches on the GPU."""
    return rows_on("cuda", [("CUDAExecutionProvider", {"use_tf32": 0})], {"gpu": require_gpu()})


def rows_on(device: str, providers: list[Any], sizes: Mapping[str, object], rounds: int = ROUNDS) -> list[Row]:
    """Errors against PyTorch on the CPU, then milliseconds."""
    rows, errors = list[Row](), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        forms, reference = contestants(device, providers, Path(folder) / "vgg16.onnx")
    for batch in BATCHES:
        images = pictures(batch)
        expected = reference(images)
        errors += [float(np.abs(form(images) - expected).max() / np.abs(expected).max()) for form in forms.values()]
        for name, ms in times_ms(forms, images, rounds).items():
            low, middle, high = spread(ms)
            told = {**sizes, "batch": batch, "quartiles": [low, high]}
            rows.append(Row(f"{device}_{name}_vgg16_batch{batch}_ms", middle, "ms", told))
    return [*rows, Row(f"{device}_forms_max_error", max(errors), "1", dict(sizes))]


def pictures(count: int) -> NDArray[np.float32]:
    """Random ones."""
    return np.random.default_rng(count).standard_normal((count, 3, SIDE, SIDE)).astype(np.float32)


def contestants(device: str, providers: list[Any], file: Path) -> tuple[dict[str, Run], Run]:
    """Who runs the network, by name, and who says what is right; `file` is where it is exported to."""
    import onnxruntime
    import torch

    export(Export(f"{__name__}:vgg16", None, file), {"image": pictures(32)})
    session = onnxruntime.InferenceSession(file.read_bytes(), providers=providers)
    wanted = providers[0][0] if isinstance(providers[0], tuple) else providers[0]
    # It falls back to the CPU without an exception.
    if session.get_providers()[0] != wanted:
        raise SystemExit(f"ONNX Runtime took {session.get_providers()[0]} instead of {wanted}")

    def by_torch(module: Any, place: str) -> Run:
        def ran(images: NDArray[np.float32]) -> NDArray[np.float32]:
            with torch.inference_mode():
                found: NDArray[np.float32] = module(torch.from_numpy(images).to(place)).cpu().numpy()
            return found

        return ran

    def by_onnxruntime(images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(session.run(None, {"image": images})[0])

    moved = vgg16().to(device)
    forms = {
        "ort": by_onnxruntime,
        "eager": by_torch(moved, device),
        "compiled": by_torch(torch.compile(moved), device),
    }
    return forms, by_torch(vgg16(), "cpu")


def times_ms(forms: Mapping[str, Run], images: NDArray[np.float32], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each run of each, in turns."""
    found: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(WARM_UP + rounds):
        for name, form in forms.items():
            started_s = time.perf_counter()
            form(images)
            if turn >= WARM_UP:
                found[name].append((time.perf_counter() - started_s) * 1e3)
    return found
