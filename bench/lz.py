# SPDX-License-Identifier: Apache-2.0
"""LZ blocks against zstd on the same independent blocks, one core: ``python -m bench.lz``.

Speeds are GB of decoded data per second of this thread's CPU time; the contestants take turns,
and a comparison is the median over the rounds. Blosc2 is there for its ratio.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

import blosc2
import numpy as np
import zstandard
from numpy.typing import NDArray

import gpucodec

from .corpus import Corpus, open_corpus
from .measure import pin
from .record import record

Array = NDArray[np.uint8]
Level = Literal["fast", "ratio"]

LEVELS: Final[tuple[Level, ...]] = ("fast", "ratio")
BLOCK: Final = 65536
BYTES: Final = 4 << 20  # of each kind
ZSTD_LEVEL: Final = 3
KINDS: Final = (
    "JSON text uint8",
    "token ids int64",
    "token ids int32",
    "post-ReLU bfloat16",
    "pruned weights float32",
    "pruned by product float32",
    "pruned weights bfloat16",
    "pruned by product bfloat16",
    "dropout mask bool",
    "weights bfloat16",
)


def word_ids(corpus: Corpus) -> NDArray[np.int64]:
    """The training text as ids of words, the most frequent first, as a tokenizer would give."""
    text = (corpus.folder / "sources.jsonl").read_text()[: 4 * BYTES]
    words = re.findall(r"\w+|\s+|[^\w\s]", text)
    rank = {word: i for i, (word, _) in enumerate(Counter(words).most_common())}
    return np.array([rank[word] for word in words], np.int64)


def data(corpus: Corpus) -> Iterator[tuple[str, int, Array]]:
    """(name, word bytes, bytes)."""
    for kind in KINDS:
        tensors = list(corpus.tensors(kind).values())
        flat = np.concatenate([t.ravel() for t in tensors])
        middle = max(0, flat.size // 2 - BYTES // 2 // flat.itemsize)
        part = np.ascontiguousarray(flat[middle : middle + BYTES // flat.itemsize])
        yield kind, flat.itemsize, part.view(np.uint8)
    ids = word_ids(corpus)
    for dtype in ("int64", "int32", "uint16"):
        part = ids[: BYTES // np.dtype(dtype).itemsize].astype(dtype)
        yield f"word ids {dtype}", part.itemsize, part.view(np.uint8)
    lengths = np.random.default_rng(0).integers(100, 512, BYTES // 512)
    mask = np.arange(512) < lengths[:, None]
    yield "padding mask bool", 1, np.ascontiguousarray(mask).reshape(-1).view(np.uint8)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.thread_time()
    result = function()
    return time.thread_time() - begin, result


def race(raw: Array, word_bytes: int, level: Level, rounds: int) -> tuple[float, ...]:
    """Ratio, GB/s and times the speed of zstd, of encoding and decoding; and zstd's ratio, GB/s."""
    raw = raw[: raw.size // BLOCK * BLOCK]
    blocks = [raw[i : i + BLOCK].tobytes() for i in range(0, raw.size, BLOCK)]
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
    decompressor = zstandard.ZstdDecompressor()
    config = gpucodec.LZConfig(level, typesize=word_bytes)
    back = np.zeros_like(raw)
    times = []
    for _ in range(rounds):
        theirs, frames = timed(lambda: [compressor.compress(b) for b in blocks])
        their_back, _ = timed(lambda: [decompressor.decompress(f, BLOCK) for f in frames])  # noqa: B023
        ours, frame = timed(lambda: gpucodec.encode(raw, config, threads=1))
        our_back, _ = timed(lambda: gpucodec.decode(frame, back, threads=1))  # noqa: B023
        times.append((ours, our_back, theirs, their_back))
    assert np.array_equal(raw, back)
    ours, our_back, theirs, their_back = (
        statistics.median(column) for column in zip(*times, strict=True)
    )
    gb = raw.size / 1e9
    return (
        raw.size / frame.size,
        raw.size / sum(map(len, frames)),
        gb / ours,
        statistics.median(t[2] / t[0] for t in times),
        gb / our_back,
        statistics.median(t[3] / t[1] for t in times),
        gb / theirs,
        gb / their_back,
    )


def blosc_ratio(raw: Array, word_bytes: int, block: int) -> float:
    options = {"blocksize": block} if block else {}
    frame = blosc2.compress2(
        raw,
        codec=blosc2.Codec.ZSTD,
        clevel=5,
        filters=[blosc2.Filter.SHUFFLE],
        typesize=word_bytes,
        nthreads=1,
        **options,
    )
    return raw.size / len(frame)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.lz", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    arguments = parser.parse_args()
    pin()
    print(
        "| data | level | ratio | zstd-3 | Blosc2 64 KiB, own | encode GB/s (x zstd) | decode GB/s (x zstd) |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, word_bytes, raw in data(open_corpus(arguments.size)):
        blosc = f"{blosc_ratio(raw, word_bytes, BLOCK):.2f}, {blosc_ratio(raw, word_bytes, 0):.2f}"
        for level in LEVELS:
            ratio, zstd, enc, enc_x, dec, dec_x, _, _ = race(
                raw, word_bytes, level, arguments.rounds
            )
            same_blocks, own_blocks = map(float, blosc.split(", "))
            figures = {"ratio": ratio, "zstd": zstd, "encode_x": enc_x, "decode_x": dec_x}
            record("lz", f"{name} {level}", blosc=same_blocks, blosc_own=own_blocks, **figures)
            print(
                f"| {name} | {level} | {ratio:.3f} | {zstd:.3f} | {blosc} "
                f"| {enc:.2f} ({enc_x:.2f}) | {dec:.2f} ({dec_x:.2f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
