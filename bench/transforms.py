# SPDX-License-Identifier: Apache-2.0
"""What the transforms and the palette gain, by themselves: ``python -m bench.transforms``.

Blocks are coded here with the codec's kernels, every combination by force, so that the table shows
what each step brings; ``bench.lossless`` shows what the codec makes of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from gpucodec.kernels import checksum, choose, palette, planes, predictor, rans, sparse
from gpucodec.kernels.entries import aligned, payload_bytes
from gpucodec.kernels.predictor_fit import fit
from gpucodec.kernels.spec import ROTATE, ROW

from .corpus import Corpus, open_corpus

Array = NDArray[Any]

BLOCK: Final = 65_536
ENTRY_BYTES: Final = 4
HASH_BYTES: Final = 8
MODEL_BYTES: Final = 112  # header and nested frame of a model, without its offsets
DENSE: Final = {"bfloat16": (8, 8), "float16": (8, 8), "float32": (8, 8, 8, 8)}
FRAMES: Final = (
    "pruned weights bfloat16",
    "pruned weights float32",
    "post-ReLU bfloat16",
    "gradients float32",
    "autocast gradients float32",
    "exp_avg_sq float32",
    "exp_avg_sq bfloat16",
    "exp_avg float32",
    "weights float32",
    "weights bfloat16",
)


@njit(nogil=True)
def encode_words(raw, word_bytes, bits, out, symbols, scratch):  # type: ignore[no-untyped-def]
    """Bytes of the payloads of one dense block."""
    n = raw.size // word_bytes
    total = 0
    if n > 0:
        planes.split(raw, word_bytes, ROTATE, bits, symbols)
        for p in range(bits.size):
            entry = choose.encode_plane(symbols[p], n, np.int64(bits[p]), out, scratch)
            total += aligned(payload_bytes(np.int64(entry)))
    return total


@njit(nogil=True)
def encode_mask(raw, word_bytes, mask, packed, out, scratch):  # type: ignore[no-untyped-def]
    """(words that are not zero, bytes of the mask's payload); (-1, 0) if the block is dense."""
    if not sparse.promising(raw, word_bytes, mask, packed):
        return -1, 0
    count = sparse.pack(raw, word_bytes, mask, packed)
    n_symbols = sparse.mask_symbols(raw.size // word_bytes)
    entry = choose.encode_plane(mask, n_symbols, sparse.MASK_BITS, out, scratch)
    return count, aligned(payload_bytes(np.int64(entry)))


@njit(nogil=True)
def subtract_model(raw, word_bytes, model, out):  # type: ignore[no-untyped-def]
    predictor.shift_words(raw, word_bytes, 0, model, -1, out)


class Coder:
    """Codes arrays block by block and counts bytes."""

    def __init__(self) -> None:
        self.scratch = rans.encode_scratch(BLOCK)
        self.symbols = np.empty((9, BLOCK + 2 * ROW), np.uint8)
        self.out = np.empty(2 * BLOCK, np.uint8)
        self.mask = np.empty(BLOCK, np.uint8)
        self.packed = np.empty(8 * (BLOCK + ROW), np.uint8)

    def size(self, raw: Array, word_bytes: int, bits: tuple[int, ...], *, zeros: bool) -> int:
        """Bytes of the blocks of `raw` (uint8), table included; `zeros`: the sparse transform."""
        total = 0
        widths = np.array(bits, np.uint8)
        for at in range(0, raw.size, BLOCK * word_bytes):
            block = raw[at : at + BLOCK * word_bytes]
            total += HASH_BYTES + ENTRY_BYTES * (len(bits) + zeros)
            if zeros:
                count, n_bytes = encode_mask(
                    block, word_bytes, self.mask, self.packed, self.out, self.scratch
                )
                total += n_bytes
                block = block if count < 0 else self.packed[: count * word_bytes]
            total += encode_words(block, word_bytes, widths, self.out, self.symbols, self.scratch)
        return total

    def model_size(self, model: predictor.Model) -> int:
        """Bytes of a model's offsets."""
        offsets = np.concatenate([a[: a.size - predictor.PAD] for a in model[:4]]).view(np.uint8)
        return MODEL_BYTES + self.size(offsets, 1, (8,), zeros=False)


def combinations(coder: Coder, array: Array, name: str) -> dict[str, int]:
    """Bytes of a matrix by transform."""
    word_bytes = array.itemsize
    words = np.ascontiguousarray(array.reshape(-1, array.shape[-1])).view(f"u{word_bytes}")
    raw = words.reshape(-1).view(np.uint8)
    sizes = {
        "dense": coder.size(raw, word_bytes, DENSE[name], zeros=False),
        "sparse": coder.size(raw, word_bytes, DENSE[name], zeros=True),
    }
    _, mantissa_bits, middle, bits = predictor.PREDICTED[name]
    model = fit(words, mantissa_bits, middle)
    sizes["predicted"] = sizes["both"] = min(sizes["dense"], sizes["sparse"])
    if model is not None:
        moved = np.empty_like(raw)
        subtract_model(raw, word_bytes, model, moved)
        extra = coder.model_size(model)
        sizes["predicted"] = extra + coder.size(moved, word_bytes, bits, zeros=False)
        sizes["both"] = extra + coder.size(moved, word_bytes, bits, zeros=True)
    return sizes


def frames_table(corpus: Corpus, kinds: tuple[str, ...]) -> None:
    coder = Coder()
    print(f"{'bits a value':28}" + "".join(f"{c:>11}" for c in ("dense", "sparse", "predicted", "both")))
    for kind in kinds:
        tensors, name = made(corpus, kind)
        totals: dict[str, int] = {}
        values = 0
        for array in tensors.values():
            for key, size in combinations(coder, array, name).items():
                totals[key] = totals.get(key, 0) + size
            values += array.size
        width = 8 * next(iter(tensors.values())).itemsize
        cells = "".join(f"{8 * size / values:11.3f}" for size in totals.values())
        best = min(totals.values())
        print(f"{kind:28}{cells}   ratio {width * values / 8 / best:.4f}", flush=True)


def made(corpus: Corpus, kind: str) -> tuple[dict[str, Array], str]:
    """Tensors of a kind of the corpus, or a cast of one; and their type's name."""
    source, _, name = kind.rpartition(" ")
    if kind in set(corpus.kinds()):
        return corpus.tensors(kind), name
    import ml_dtypes

    tensors = corpus.tensors(f"{source} float32")
    return {key: array.astype(getattr(ml_dtypes, name)) for key, array in tensors.items()}, name


# --- masks ------------------------------------------------------------------------------------


def masks_table() -> None:
    """Bits a word of the mask, in symbols of 1, 2, 4 and 8 bits."""
    rng = np.random.default_rng(0)
    coder = Coder()
    n = 16 * BLOCK
    groups = rng.random((n // 4, 4)).argsort(1)
    samples = {
        "random, 10 % set": rng.random(n) < 0.1,
        "random, 90 % set": rng.random(n) < 0.9,
        "random, half set": rng.random(n) < 0.5,
        "2 of 4": (groups < 2).ravel(),
        "1 of 4": (groups < 1).ravel(),
        "4 of 8": (rng.random((n // 8, 8)).argsort(1) < 4).ravel(),
    }
    print(f"\n{'mask, bits a word':28}" + "".join(f"{b:>9} bit" for b in (1, 2, 4, 8)))
    for label, mask in samples.items():
        cells = []
        packed = np.packbits(mask, bitorder="little")
        for width in (1, 2, 4, 8):
            parts = [(packed >> at) & ((1 << width) - 1) for at in range(0, 8, width)]
            symbols = np.stack(parts, 1).ravel().astype(np.uint8)
            total = 0
            for at in range(0, symbols.size, BLOCK // width):
                block = np.zeros(BLOCK + 2 * ROW, np.uint8)
                block[: BLOCK // width] = symbols[at : at + BLOCK // width]
                total += plane_size(block, BLOCK // width, width, coder.out, coder.scratch)
            cells.append(f"{8 * total / n:13.4f}")
        print(f"{label:28}" + "".join(cells))


@njit(nogil=True)
def plane_size(symbols, n, bits, out, scratch):  # type: ignore[no-untyped-def]
    return payload_bytes(np.int64(choose.encode_plane(symbols, n, bits, out, scratch)))
