# SPDX-License-Identifier: Apache-2.0
"""``gpucodec demo``: a real checkpoint through a zarr store and back, on any machine.

The checkpoint is what training leaves behind: bf16 weights, and fp32 master weights and both
moments of AdamW. The model is a language model over bytes (embeddings of the last bytes, two
hidden layers with a residual connection), trained with NumPy alone on Python's own sources.
"""

from __future__ import annotations

import sysconfig
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import ml_dtypes
import numpy as np
import zarr

from .cli import check, files, stores, survey
from .cli.console import rate, ready, say, survey as show
from .cli.errors import DamagedError
from .tensorfiles import safetensors
from .tensorfiles.tensors import Array, Contents, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTEXT: Final = 16  # bytes that the model sees
EMBEDDING: Final = 32
HIDDEN: Final = 768
BATCH: Final = 256
TEXT_BYTES: Final = 4 << 20
PATIENCE: Final = 10  # seconds of training, on however slow a machine
LEARNING_RATE: Final = 2e-3
BETA1, BETA2, EPSILON, DECAY = 0.9, 0.99, 1e-8, 0.1

Parameters = dict[str, Any]


def run(file: Path | None, steps: int, keep: Path | None) -> None:
    """Train (or take `file`), compress, compare through plain zarr, and print what was gained.

    Raises
    ------
    DamagedError
        A bit came back wrong.

    """
    with tempfile.TemporaryDirectory(prefix="gpucodec-demo-") as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if file is None:
            file = folder / "checkpoint.safetensors"
            safetensors.write(file, train(steps))
        store = folder / f"{file.stem}.zarr"
        _round_trip(file, store)
        if keep:
            say(f"\nKept: {file} and {store}. Try: gpucodec verify {store}")


def _round_trip(file: Path, store: Path) -> None:
    contents = files.read(file)
    started = time.perf_counter()
    ready(everything=True)
    compiled = time.perf_counter()
    stores.write(store, contents, "gpucodec")
    written = time.perf_counter()
    say(f"compressed {file.name} into {store.name}")
    _compare(contents, store)
    read = time.perf_counter()
    say("read back with plain zarr: every bit is the same\n")
    rows = list(survey.of_store(stores.open_store(store)))
    show(rows)
    n_bytes = contents.nbytes
    speeds = rate(n_bytes, written - compiled), rate(n_bytes, read - written)
    say("\ncompress {}, read back and compare {}, files and zarr included".format(*speeds))
    say(f"(the kernels were ready after {compiled - started:.1f} s: they are compiled only once)")


def _compare(contents: Contents, path: Path) -> None:
    """Compare each tensor with what zarr, knowing nothing of this program, reads."""
    root: Any = zarr.open_group(path, mode="r")
    there = [_held(name, root[where]) for name, where in root.attrs["gpucodec"]["tensors"].items()]
    for difference in check.same(contents, Contents("zarr", there)):
        raise DamagedError(difference)


def train(steps: int) -> Contents:
    """Train the model and return its checkpoint."""
    text = np.frombuffer(_text(), np.uint8)
    generator = np.random.default_rng(0)
    parameters = _initial(generator)
    moments = [{name: np.zeros_like(p) for name, p in parameters.items()} for _ in range(2)]
    n_parameters = sum(p.size for p in parameters.values())
    say(f"training a byte-level language model of {n_parameters:,} parameters with AdamW")
    started = time.perf_counter()
    losses = []
    for step in range(1, steps + 1):
        seconds = time.perf_counter() - started
        if seconds > PATIENCE:
            say(f"  stopped after {PATIENCE} s, this machine is busy or slow")
            break
        starts = generator.integers(0, text.size - CONTEXT - 1, BATCH)
        windows = text[starts[:, None] + np.arange(CONTEXT + 1)]
        working = {name: _bf16(p).astype(np.float32) for name, p in parameters.items()}
        loss, gradients = _loss(working, windows[:, :-1], windows[:, -1])
        _adamw(parameters, moments, gradients, step)
        losses.append(loss)
        if step == 1 or step % max(1, steps // 5) == 0:
            say(f"  step {step:4}  loss {np.mean(losses[-20:]):.3f}  {seconds:.1f} s")
    return _checkpoint(parameters, moments, len(losses))


def _text() -> bytes:
    """A few megabytes of source code that every machine with Python has."""
    places = (Path(sysconfig.get_path("stdlib")), Path(__file__).parent)
    parts, n_bytes = [], 0
    for path in (path for place in places for path in sorted(place.glob("*.py"))):
        parts.append(path.read_bytes())
        n_bytes += len(parts[-1])
        if n_bytes > TEXT_BYTES:
            break
    return b"\n".join(parts)


def _initial(generator: np.random.Generator) -> Parameters:
    def normal(*shape: int) -> Array:
        scaled: Array = generator.standard_normal(shape) / np.sqrt(shape[0])
        return scaled.astype(np.float32)

    return {
        "embedding.weight": generator.standard_normal((256, EMBEDDING)).astype(np.float32) / 4,
        "input.weight": normal(CONTEXT * EMBEDDING, HIDDEN),
        "input.bias": np.zeros(HIDDEN, np.float32),
        "hidden.weight": normal(HIDDEN, HIDDEN),
        "hidden.bias": np.zeros(HIDDEN, np.float32),
        "output.weight": normal(HIDDEN, 256),
        "output.bias": np.zeros(256, np.float32),
    }


def _loss(p: Parameters, context: Array, target: Array) -> tuple[float, Parameters]:
    """Mean cross entropy in nats, and its gradient by hand."""
    x = p["embedding.weight"][context].reshape(BATCH, -1)
    a = np.tanh(x @ p["input.weight"] + p["input.bias"])
    b = np.tanh(a @ p["hidden.weight"] + p["hidden.bias"])
    h = a + b
    logits = h @ p["output.weight"] + p["output.bias"]
    logits -= logits.max(axis=1, keepdims=True)
    odds = np.exp(logits)
    odds /= odds.sum(axis=1, keepdims=True)
    rows = np.arange(BATCH)
    loss = -float(np.log(odds[rows, target]).mean())
    odds[rows, target] -= 1
    d_logits = odds / BATCH
    d_h = d_logits @ p["output.weight"].T
    d_b = d_h * (1 - b * b)
    d_a = (d_h + d_b @ p["hidden.weight"].T) * (1 - a * a)
    d_x = (d_a @ p["input.weight"].T).reshape(-1, EMBEDDING)
    d_embedding = np.zeros_like(p["embedding.weight"])
    np.add.at(d_embedding, context.reshape(-1), d_x)
    return loss, {
        "embedding.weight": d_embedding,
        "input.weight": x.T @ d_a,
        "input.bias": d_a.sum(axis=0),
        "hidden.weight": a.T @ d_b,
        "hidden.bias": d_b.sum(axis=0),
        "output.weight": h.T @ d_logits,
        "output.bias": d_logits.sum(axis=0),
    }


def _adamw(
    parameters: Parameters, moments: list[Parameters], gradients: Parameters, step: int
) -> None:
    """One step on the fp32 master weights, with a short warm-up."""
    rate_now = LEARNING_RATE * min(1, step / 20)
    correction = np.sqrt(1 - BETA2**step) / (1 - BETA1**step)
    for name, weight in parameters.items():
        mean, square, gradient = moments[0][name], moments[1][name], gradients[name]
        mean += (1 - BETA1) * (gradient - mean)
        square += (1 - BETA2) * (gradient * gradient - square)
        if weight.ndim > 1:
            weight[...] *= np.float32(1 - rate_now * DECAY)
        weight[...] -= np.float32(rate_now * correction) * mean / (np.sqrt(square) + EPSILON)


def _checkpoint(parameters: Parameters, moments: list[Parameters], steps: int) -> Contents:
    def named() -> Iterator[tuple[str, Array]]:
        for name, weight in parameters.items():
            yield f"model.{name}", _bf16(weight)
        for name, weight in parameters.items():
            yield f"master.{name}", weight
            yield f"exp_avg.{name}", moments[0][name]
            yield f"exp_avg_sq.{name}", moments[1][name]

    tensors = [_held(name, array) for name, array in named()]
    return Contents("safetensors", tensors, {"metadata": {"format": "np", "steps": str(steps)}})


def _held(name: str, array: Any) -> Tensor:
    return Tensor(name, array.dtype, array.shape, lambda: array)


def _bf16(array: Array) -> Array:
    rounded: Array = array.astype(ml_dtypes.bfloat16)
    return rounded
