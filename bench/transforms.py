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

import gpucodec
from gpucodec.kernels import checksum, choose, palette, planes, predictor, rans, sparse
from gpucodec.kernels.entries import aligned, payload_bytes
from gpucodec.kernels.predictor_fit import fit
from gpucodec.kernels.spec import PROBE_STRIDE, ROTATE, ROW

from .corpus import Corpus, open_corpus

Array = NDArray[Any]

BLOCK: Final = 65_536
ENTRY_BYTES: Final = 4
HASH_BYTES: Final = 8
MODEL_BYTES: Final = 112  # header and nested frame of a model, without its offsets
DENSE: Final = {"bfloat16": (8, 8), "float16": (8, 8), "float32": (8, 8, 8, 8)}
FRAMES: Final = (
    "pruned to +0 bfloat16",
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
def plane_size(symbols, n, bits, out, scratch):  # type: ignore[no-untyped-def]
    """Bytes of a plane's payload as the codec stores it."""
    entry = choose.encode_plane(symbols, n, bits, out, scratch)
    return aligned(payload_bytes(np.int64(entry)))


@njit(nogil=True)
def encode_mask(raw, word_bytes, mask, packed, signs, out, scratch):  # type: ignore[no-untyped-def]
    """(words that are not zero, bytes of mask and signs); (-1, 0) if the block is dense."""
    magnitude = sparse.magnitude_bits(word_bytes, ROTATE)
    if not sparse.promising(raw, word_bytes, magnitude, mask, packed):
        return -1, 0
    count, has_signs = sparse.pack(raw, word_bytes, magnitude, mask, packed)
    n_symbols = sparse.mask_symbols(raw.size // word_bytes)
    total = plane_size(mask, n_symbols, sparse.MASK_BITS, out, scratch)
    if has_signs:
        n_signs = sparse.read_signs(raw, word_bytes, mask, signs)
        total += plane_size(signs, n_signs, 1, out, scratch)
    return count, total


@njit(nogil=True)
def subtract_model(raw, word_bytes, model, out):  # type: ignore[no-untyped-def]
    predictor.shift_words(raw, word_bytes, 0, model, -1, out)


class Coder:
    """Codes arrays block by block and counts bytes."""

    def __init__(self) -> None:
        self.scratch = rans.encode_scratch(BLOCK)
        self.symbols = np.empty(BLOCK + 2 * ROW, np.uint8)
        self.out = np.empty(2 * BLOCK, np.uint8)
        self.mask, self.signs = np.empty((2, BLOCK + ROW), np.uint8)
        self.packed = np.empty(8 * (BLOCK + ROW), np.uint8)

    def size(self, raw: Array, word_bytes: int, bits: tuple[int, ...], *, zeros: bool) -> int:
        """Bytes of the blocks of `raw` (uint8), table included; `zeros`: the sparse transform."""
        total = 0
        for at in range(0, raw.size, BLOCK * word_bytes):
            block = raw[at : at + BLOCK * word_bytes]
            total += HASH_BYTES + ENTRY_BYTES * (len(bits) + 2 * zeros)
            if zeros:
                work = self.mask, self.packed, self.signs, self.out, self.scratch
                count, n_bytes = encode_mask(block, word_bytes, *work)
                total += n_bytes
                block = block if count < 0 else self.packed[: count * word_bytes]
            total += self.planes_size(block.view(f"u{word_bytes}"), bits)
        return total

    def planes_size(self, words: Array, bits: tuple[int, ...]) -> int:
        """Bytes of the planes of one block, rotated as floats are."""
        total = 0
        below = 8 * words.itemsize
        rotated = words << 1 | words >> (below - 1)
        for width in bits if words.size else ():
            below -= width
            self.symbols[: words.size] = rotated >> below & ((1 << width) - 1)
            total += plane_size(self.symbols, words.size, width, self.out, self.scratch)
        return total

    def model_size(self, model: predictor.Model) -> int:
        """Bytes of a model's offsets."""
        offsets = predictor.join(model)
        total = MODEL_BYTES
        for at in range(0, offsets.size, BLOCK):
            part = offsets[at : at + BLOCK]
            self.symbols[: part.size] = part
            total += plane_size(self.symbols, part.size, 8, self.out, self.scratch)
        return total


def combinations(coder: Coder, array: Array, name: str) -> dict[str, int]:
    """Bytes of a matrix by transform."""
    word_bytes = array.itemsize
    words = np.ascontiguousarray(array.reshape(-1, array.shape[-1])).view(f"u{word_bytes}")
    raw = words.reshape(-1).view(np.uint8)
    sizes = {
        "dense": coder.size(raw, word_bytes, DENSE[name], zeros=False),
        "sparse": coder.size(raw, word_bytes, DENSE[name], zeros=True),
    }
    bits = predictor.PREDICTED[name][3]
    model = fit(words, name)
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
    print(
        f"{'bits a value':28}"
        + "".join(f"{c:>11}" for c in ("dense", "sparse", "predicted", "both"))
    )
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
    if source == "pruned to +0":  # a product with a mask leaves -0.0
        tensors = corpus.tensors(f"pruned weights {name}")
        return {key: np.where(a == 0, np.zeros_like(a), a) for key, a in tensors.items()}, name
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
            count = BLOCK // width
            total = 0
            for at in range(0, symbols.size, count):
                coder.symbols[:count] = symbols[at : at + count]
                total += plane_size(coder.symbols, count, width, coder.out, coder.scratch)
            cells.append(f"{8 * total / n:13.4f}")
        print(f"{label:28}" + "".join(cells))


# --- palette ----------------------------------------------------------------------------------


@njit(nogil=True)
def encode_palette(raw, bits, out, sizes, symbols, scratch, flags):  # type: ignore[no-untyped-def]
    """Encode the blocks of `raw` (uint8, words of two bytes) with palette and raw plane; bytes."""
    total = 0
    for b in range(sizes.shape[0]):
        block = raw[2 * BLOCK * b : 2 * BLOCK * (b + 1)]
        n = block.size // 2
        checksum.xxh3(np.uint64(block.ctypes.data), block.size)
        planes.split(block, 2, ROTATE, bits, symbols)
        counted = choose.histogram(  # as the codec would count
            symbols[0], (n - 1) // ROW, PROBE_STRIDE, scratch.counts
        )
        width, base, _ = palette.plan(scratch.counts[0], counted, n, 8)
        size = palette.encode(symbols[0], n, 8, width, base, out[b, :n], flags)
        for i in range(n):
            out[b, n + i] = symbols[1, i]
        sizes[b, 0], sizes[b, 1] = width, size
        total += aligned(size) + n
    return total


@njit(nogil=True)
def decode_palette(coded, sizes, bits, raw, symbols):  # type: ignore[no-untyped-def]
    """Decode what `encode_palette` wrote; the sum of all statuses."""
    status = 0
    where = np.empty((2, 3), np.uint64)
    for b in range(sizes.shape[0]):
        block = raw[2 * BLOCK * b : 2 * BLOCK * (b + 1)]
        n = block.size // 2
        status += palette.decode(coded[b, : sizes[b, 1]], n, 8, sizes[b, 0], symbols[0])
        where[0, 0] = symbols[0].ctypes.data
        where[1, 0] = coded[b, n:].ctypes.data
        planes.merge(where, 2, ROTATE, bits, block)
        checksum.xxh3(np.uint64(block.ctypes.data), block.size)
    return status


def palette_table(corpus: Corpus, rounds: int) -> None:
    """Palette against the codec as it is, on one core and with checksums."""
    array = corpus.flat("weights bfloat16").view(np.uint16)
    array = array[: array.size // BLOCK * BLOCK]
    raw = array.view(np.uint8)
    n_blocks = array.size // BLOCK
    bits, symbols = np.array([8, 8], np.uint8), np.empty((2, BLOCK + 2 * ROW), np.uint8)
    coded, sizes = (
        np.empty((n_blocks, 2 * BLOCK + ROW), np.uint8),
        np.zeros((n_blocks, 2), np.int64),
    )
    flags, scratch = np.empty(BLOCK // ROW, np.uint64), rans.encode_scratch(BLOCK)
    decoded = np.empty_like(raw)
    import ml_dtypes

    values = array.view(ml_dtypes.bfloat16)
    frame = gpucodec.encode(values, threads=1)
    steps: dict[str, Callable[[], Any]] = {
        "rANS encode": lambda: gpucodec.encode(values, threads=1),
        "palette encode": lambda: encode_palette(raw, bits, coded, sizes, symbols, scratch, flags),
        "rANS decode": lambda: gpucodec.decode(frame, decoded, threads=1),
        "palette decode": lambda: decode_palette(coded, sizes, bits, decoded, symbols),
    }
    n_bytes = encode_palette(raw, bits, coded, sizes, symbols, scratch, flags)
    n_bytes += n_blocks * (HASH_BYTES + 2 * ENTRY_BYTES)
    assert decode_palette(coded, sizes, bits, decoded, symbols) == 0
    assert np.array_equal(raw, decoded)
    best = dict.fromkeys(steps, np.inf)
    for _ in range(rounds):
        for label, step in steps.items():
            begin = time.thread_time()
            step()
            best[label] = min(best[label], time.thread_time() - begin)
    print(
        f"\nbfloat16 weights, ratio: rANS {raw.size / frame.size:.4f}, "
        f"palette {raw.size / n_bytes:.4f} ({np.bincount(sizes[:, 0]).argmax()} bits)"
    )
    for label, seconds in best.items():
        print(f"{label:28}{raw.size / seconds / 1e9:8.2f} GB/s")
    for way in ("encode", "decode"):
        ratio = best[f"rANS {way}"] / best[f"palette {way}"]
        print(f"palette {way}: {ratio:.2f}x rANS")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.transforms", description=__doc__)
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--kinds", nargs="+", default=FRAMES)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    corpus = open_corpus(options.size)
    palette_table(corpus, options.rounds)
    masks_table()
    frames_table(corpus, tuple(options.kinds))


if __name__ == "__main__":
    main()
