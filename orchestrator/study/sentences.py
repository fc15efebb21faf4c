"""A sentence encoder from a file: ONNX Runtime behind a callable, texts to embeddings.

The file is not trusted, see `orchestrator.study.onnx_session`.

Shape letters: q texts, b texts of a batch, n tokens, s width of an embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.gate.sentences import SentenceEncoder
from orchestrator.errors import ExitCode
from orchestrator.study.errors import StudyError
from orchestrator.study.onnx_session import INSTALL, WHAT, open_model, read_bounded

Floats = NDArray[np.float64]

MAX_TOKENIZER_BYTES = 64 << 20
MAX_WIDTH = 8192
# Positions that sentence encoders usually have; a tokenizer that says otherwise is heeded.
_MAX_TOKENS = 512
_BATCH = 32
# Studies ask for the same texts once per fold.
_REMEMBERED = 50_000
_TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def load_sentences(model: Path, tokenizer: Path | None = None) -> SentenceEncoder:
    """An encoder from an ONNX file and, unless it reads texts itself, a tokenizer.json.

    Args:
        model: Takes a string tensor, or input_ids with attention_mask and token_type_ids as it needs them; gives
            (b, s), or (b, n, s), of which the mean over the mask is taken.
        tokenizer: In the format of the `tokenizers` package.

    Raises:
        StudyError: A file is missing, too large, names other files, or is not what it should be; or a package is
            missing.
    """
    session, data = open_model(model)
    digests = [hashlib.sha256(data).hexdigest()]
    inputs = {value.name: value for value in session.get_inputs()}
    if _takes_texts(inputs):
        if tokenizer is not None:
            raise StudyError(f"{model.name}: it reads texts itself", "leave --tokenizer out", what=WHAT)
        feed: Feed = _TextFeed(next(iter(inputs.values())))
    else:
        cut, digest = _tokenizer(model, inputs, tokenizer)
        feed, digests = _TokenFeed(cut, inputs), [*digests, digest]
    return SentenceEncoder(_Remembering(_Embedding(model.name, session, feed)), tuple(digests))


Fed = tuple[dict[str, NDArray[Any]], NDArray[np.bool_] | None]
Feed = Callable[[Sequence[str]], Fed]


class _TextFeed:
    """Texts as they are, in the rank that the model declares."""

    def __init__(self, value: Any) -> None:
        self._name, self._rank = value.name, len(value.shape)

    def __call__(self, texts: Sequence[str]) -> Fed:
        array = np.array([text.replace("\0", " ") for text in texts], dtype=object)
        return {self._name: array.reshape(-1, 1) if self._rank == 2 else array}, None


class _TokenFeed:
    """Texts as tokens, padded to the longest of the batch."""

    def __init__(self, tokenizer: Any, inputs: dict[str, Any]) -> None:
        self._tokenizer = tokenizer
        self._dtype_of = {name: np.int32 if "int32" in value.type else np.int64 for name, value in inputs.items()}

    def __call__(self, texts: Sequence[str]) -> Fed:
        # An empty text is one padding token: attention over nothing would be no number.
        rows = [one.ids or [0] for one in self._tokenizer.encode_batch([*texts])]
        mask_bn = np.arange(max(map(len, rows))) < np.array([len(row) for row in rows])[:, None]
        ids_bn = np.zeros(mask_bn.shape, dtype=np.int64)
        ids_bn[mask_bn] = np.concatenate(rows)
        named = {"input_ids": ids_bn, "attention_mask": mask_bn, "token_type_ids": np.zeros_like(ids_bn)}
        return {name: named[name].astype(dtype) for name, dtype in self._dtype_of.items()}, mask_bn


class _Embedding:
    """Embeddings of texts, batch by batch.

    Raises:
        StudyError: The runtime fails, or what comes out is not one row of finite numbers per text.
    """

    def __init__(self, name: str, session: Any, feed: Feed) -> None:
        self._name, self._session, self._feed = name, session, feed
        outputs = [value.name for value in session.get_outputs()]
        self._output = "sentence_embedding" if "sentence_embedding" in outputs else outputs[0]

    def __call__(self, texts: Sequence[str]) -> Floats:
        return np.vstack([self._batch(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH)])

    def _batch(self, texts: Sequence[str]) -> Floats:
        inputs, mask_bn = self._feed(texts)
        try:
            (raw,) = self._session.run([self._output], inputs)
        except Exception as error:  # the rim: the runtime makes its exceptions' classes as it goes
            why = f"{self._name}: the runtime failed: {str(error).splitlines()[0][:160]}"
            cure = "check that model and tokenizer belong together"
            raise StudyError(why, cure, what="encoder failed", exit_code=ExitCode.ENGINE_FAILED) from error
        return self._pooled(np.asarray(raw), mask_bn, len(texts))

    def _pooled(self, raw: NDArray[Any], mask_bn: NDArray[np.bool_] | None, count: int) -> Floats:
        if raw.dtype.kind == "f" and raw.ndim == 3 and mask_bn is not None and raw.shape[:2] == mask_bn.shape:
            raw = (raw * mask_bn[:, :, None]).sum(axis=1) / mask_bn.sum(axis=1)[:, None]
        if raw.dtype.kind != "f" or raw.ndim != 2 or len(raw) != count or not 0 < raw.shape[1] <= MAX_WIDTH:
            why = f"{self._name}: {count} texts gave {raw.dtype.name} numbers of shape {raw.shape}"
            raise StudyError(why, "it must give (batch, width) or (batch, tokens, width) of floats", what=WHAT)
        if not np.isfinite(raw).all():
            raise StudyError(f"{self._name}: it gave numbers that are not finite", "export it again", what=WHAT)
        return raw.astype(np.float64)


class _Remembering:
    """An embedding that is asked once per text."""

    def __init__(self, embed: Callable[[Sequence[str]], Floats]) -> None:
        self._embed = embed
        self._known: dict[str, NDArray[np.float32]] = {}

    def __call__(self, texts: Sequence[str]) -> Floats:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if len(self._known) + len(new) > _REMEMBERED:
            self._known, new = {}, [*dict.fromkeys(texts)]
        if new:
            self._known.update(zip(new, self._embed(new).astype(np.float32), strict=True))
        return np.array([self._known[text] for text in texts], dtype=np.float64)


def _takes_texts(inputs: dict[str, Any]) -> bool:
    return len(inputs) == 1 and next(iter(inputs.values())).type == "tensor(string)"


def _tokenizer(model: Path, inputs: dict[str, Any], path: Path | None) -> tuple[Any, str]:
    """The tokenizer, cutting and not padding, and its digest."""
    unknown = sorted(set(inputs) - set(_TOKEN_INPUTS))
    if unknown or "input_ids" not in inputs:
        why = f"{model.name}: it takes {', '.join(sorted(inputs))}"
        raise StudyError(why, f"it must take {', '.join(_TOKEN_INPUTS)}, or one string tensor", what=WHAT)
    if path is None:
        raise StudyError(f"{model.name}: it takes tokens", "add --tokenizer tokenizer.json", what=WHAT)
    data = read_bounded(path, MAX_TOKENIZER_BYTES)
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise StudyError("sentence encoders need tokenizers", INSTALL, what="not installed") from error
    try:
        found = Tokenizer.from_str(data.decode())
    except Exception as error:  # the rim: the package raises bare exceptions
        raise StudyError(f"{path.name}: it is not a tokenizer.json", "take the encoder's own", what=WHAT) from error
    found.no_padding()
    if found.truncation is None:
        found.enable_truncation(max_length=_MAX_TOKENS)
    return found, hashlib.sha256(data).hexdigest()
