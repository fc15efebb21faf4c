"""Small VGG and MobileNet classifiers of 32x32 pictures in colour, made on the spot.

Without torch convolutions are random and normalised on data, the last layer is fitted in closed form: enough to be
right about most digits in colour, and to be personalised. With torch that is only the start of a short training.
Shapes: n samples, c channels, h and w pixels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from deploy.demo.writer import Writer
from nodes.personal import graph
from nodes.personal.network import Floats, Network, Stage, macs, map_side, parameters
from nodes.zoo.arrays import write_arrays
from nodes.zoo.catalog import load_catalog

WRITER = Writer(slant=0.1, habits={7: "bar", 4: "mirror"})
SIDE = 32
LABELS = tuple("0123456789")
NORMALISED = 48
RIDGE = 3.0
SHARPNESS = 12.0
TRAINING_STEPS, TRAINING_RATE = 150, 1e-3

Labels = NDArray[np.int64]


def vgg() -> Network:
    """Three convolutions, each halving the picture."""
    stages = [Stage(f"layer{n}", conv=True, padding=1, pool=2) for n in range(3)]
    return Network(SIDE, (*stages, Stage("layer3", conv=False)), channels=3)


def mobilenet() -> Network:
    """A convolution, three depthwise separable ones, the mean of what is left."""
    stages = [Stage("layer0", conv=True, padding=1, stride=2)]
    widths = ((32, 1), (64, 2), (256, 2))
    inputs = 16
    for outputs, stride in widths:
        at = len(stages)
        stages.append(Stage(f"layer{at}", conv=True, padding=1, stride=stride, groups=inputs))
        stages.append(Stage(f"layer{at + 1}", conv=True, averaged=outputs == 256))
        inputs = outputs
    return Network(SIDE, (*stages, Stage(f"layer{len(stages)}", conv=False)), channels=3)


WIDTHS = {"colour-vgg": (12, 16, 24), "colour-mobilenet": (16, 16, 32, 32, 64, 64, 256)}
NETWORKS = {"colour-vgg": vgg(), "colour-mobilenet": mobilenet()}


def coloured(images: Floats, *, seed: int, own: bool = False) -> Floats:
    """Digits (n, 8, 8) as pictures (n, 3, 32, 32); a user's `own` are blue on blue."""
    rng = np.random.default_rng(seed)
    large = np.kron(images, np.ones((1, SIDE // 8, SIDE // 8), np.float32))[:, None]
    ink = rng.uniform(0.6, 1.0, (len(images), 3, 1, 1))
    ground = rng.uniform(0.0, 0.3, (len(images), 3, 1, 1))
    if own:
        ink, ground = (np.array(one).reshape(1, 3, 1, 1) for one in ((0.5, 0.6, 1.0), (0.1, 0.1, 0.3)))
    return np.asarray(ground + (ink - ground) * large, np.float32)


@cache
def generic() -> tuple[Floats, Labels]:
    """What everybody sees."""
    catalog = load_catalog()
    return coloured(catalog.reference.inputs, seed=0), catalog.reference.labels_n.astype(np.int64)


@cache
def own() -> tuple[Floats, Labels]:
    """What the user sees: digits in a hand and in colours of their own."""
    held_out = load_catalog().held_out
    labels_n = held_out.labels_n.astype(np.int64)
    return coloured(WRITER.write(held_out.inputs, labels_n), seed=1, own=True), labels_n


@cache
def made(name: str) -> dict[str, Floats]:
    """Weights of one of `NETWORKS`."""
    network, weights = NETWORKS[name], dict(_convolutions(name))
    images, labels_n = generic()
    width = _flat_width(network, weights)
    weights[network.last.weight] = np.zeros((len(LABELS), width), np.float32)
    weights[network.last.bias] = np.zeros(len(LABELS), np.float32)
    features_nf = _run(graph.observed(network, weights), images, "features").astype(np.float64)
    rows = np.column_stack([features_nf, np.ones(len(features_nf))])
    target = np.eye(len(LABELS))[labels_n] - 1 / len(LABELS)
    fitted = np.linalg.solve(rows.T @ rows + RIDGE * np.eye(width + 1), rows.T @ target) * SHARPNESS
    weights[network.last.weight] = fitted[:-1].T.astype(np.float32)
    weights[network.last.bias] = fitted[-1].astype(np.float32)
    return weights


@cache
def trained(name: str) -> dict[str, Floats]:
    """The same, trained on what everybody sees. Needs torch. Cost: some seconds."""
    import torch
    from torch.nn import functional

    from nodes.personal.learning import as_input, trainable

    network, (images, labels_n) = NETWORKS[name], generic()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    values = {key: torch.from_numpy(array.copy()).requires_grad_() for key, array in made(name).items()}
    forward, inputs, labels = trainable(network), as_input(network, images), torch.from_numpy(labels_n)
    optimizer = torch.optim.Adam(values.values(), lr=TRAINING_RATE)
    for _ in range(TRAINING_STEPS):
        picked = torch.randint(len(labels), (64,), generator=generator)
        loss = functional.cross_entropy(forward(values, inputs[picked]), labels[picked], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {key: value.detach().numpy() for key, value in values.items()}


def write_catalog(folder: Path, weights_of: Callable[[str], dict[str, Floats]] = made) -> Path:
    """A folder of these experts, as a node reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels_n = generic()
    arrays: dict[str, dict[str, NDArray[Any]]] = {
        "reference": {"inputs": images, "labels": labels_n.astype(np.uint8)},
        "held_out": {"inputs": own()[0], "labels": own()[1].astype(np.uint8)},
        "evidence": {},
    }
    for name, network in NETWORKS.items():
        weights = weights_of(name)
        model = graph.plain(network, weights)
        (folder / f"{name}.onnx").write_bytes(model)
        arrays["evidence"][name] = _run(model, images, "probabilities").astype(np.float16)
        accuracy = float((arrays["evidence"][name].argmax(1) == labels_n).mean())
        (folder / f"{name}.json").write_text(json.dumps(_card(name, model, network, weights, accuracy)))
    for name, held in arrays.items():
        write_arrays(folder / f"{name}.npz", held)
    (folder / "task.json").write_text(json.dumps(_task(folder)))
    return folder


def _card(name: str, model: bytes, network: Network, weights: dict[str, Floats], accuracy: float) -> dict[str, Any]:
    return {
        "name": name,
        "variant": "onnx-fp32",
        "task": "colour-digits",
        "engine": "onnx",
        "file": f"{name}.onnx",
        "sha256": sha256(model).hexdigest(),
        "macs": macs(network, weights),
        "parameters": parameters(network, weights),
        "memory_bytes": 2 * len(model),
        "memory_note": "file and weights",
        "quality": {"accuracy_fraction": accuracy, "samples": len(generic()[1]), "split": "what it was fitted on"},
        "evidence_key": name,
        "recipe": {"ridge": RIDGE},
    }


def _task(folder: Path) -> dict[str, Any]:
    def file(name: str) -> dict[str, str]:
        return {"file": f"{name}.npz", "sha256": sha256((folder / f"{name}.npz").read_bytes()).hexdigest()}

    return {
        "name": "colour-digits",
        "input": {"name": "image", "dtype": "float32", "shape": [-1, 3, SIDE, SIDE]},
        "output": {"name": "probabilities", "dtype": "float32", "shape": [-1, len(LABELS)]},
        "labels": list(LABELS),
        "normalisation": "0 to 1",
        "source": "the digits that ship, in colour",
        **{name: file(name) for name in ("reference", "held_out", "evidence")},
    }


def _convolutions(name: str) -> Iterator[tuple[str, Floats]]:
    """Random filters, each normalised to answer with mean 0 and deviation 1 on data."""
    rng, network = np.random.default_rng(0), NETWORKS[name]
    value = generic()[0][:NORMALISED].astype(np.float64)
    for stage, outputs in zip(network.stages, WIDTHS[name], strict=False):
        kernel = 3 if stage.padding else 1
        weight = rng.normal(size=(outputs, value.shape[1] // stage.groups, kernel, kernel))
        raw = _convolve(value, weight, stage)
        spread, mean = raw.std(axis=(0, 2, 3)), raw.mean(axis=(0, 2, 3))
        yield stage.weight, (weight / spread[:, None, None, None]).astype(np.float32)
        yield stage.bias, (-mean / spread).astype(np.float32)
        value = np.maximum((raw - mean[:, None, None]) / spread[:, None, None], 0.0)
        n, c, side, _ = value.shape
        value = value.reshape(n, c, side // stage.pool, stage.pool, side // stage.pool, stage.pool).max(axis=(3, 5))


def _convolve(value: NDArray[np.float64], weight: NDArray[np.float64], stage: Stage) -> NDArray[np.float64]:
    pad, kernel = stage.padding, weight.shape[2]
    padded = np.pad(value, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(padded, (kernel, kernel), axis=(2, 3))[:, :, :: stage.stride, :: stage.stride]
    subscripts = "nchwij,cij->nchw" if stage.groups > 1 else "nchwij,ocij->nohw"
    kernels = weight[:, 0] if stage.groups > 1 else weight
    return np.asarray(np.einsum(subscripts, windows, kernels, optimize=True))


def _flat_width(network: Network, weights: dict[str, Floats]) -> int:
    return int(map_side(network, weights) ** 2 * len(weights[network.stages[-2].bias]))


def _run(model: bytes, images: Floats, output: str) -> Floats:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    parts = [session.run([output], {"image": images[at : at + 128]})[0] for at in range(0, len(images), 128)]
    return np.concatenate(parts)
