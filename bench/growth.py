# SPDX-License-Identifier: Apache-2.0
"""How cost grows: with the size of an array, the number of threads, the number of arrays.

``python -m bench.growth [--most-bytes N]``. bfloat16 weights of `bench.corpus`, repeated beyond their
size in another order of rows. Sizes are raced like everything else (`measure.race`); a codec that
would take longer than ``--patience`` at a size sits it out from there on.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import psutil

import gpucodec

from . import measure, peers
from .corpus import open_corpus
from .record import record

if TYPE_CHECKING:
    from numpy.typing import NDArray

KIND: Final = "weights bfloat16"
SIZES: Final = tuple(1 << log for log in range(10, 33, 2))  # 1 KiB ... 4 GiB
PEERS: Final = (peers.OURS, peers.ZIPNN, "pcodec", "Blosc2 bitshuffle+zstd", "zstd-3", "copy")
COUNTS: Final = (1, 10, 100, 1_000, 10_000)
SMALL_BYTES: Final = 4096
COPIES: Final = 5  # of the array that a race holds at most: input, a peer's copy, encoded, decoded


def array_of(flat: NDArray[Any], n_bytes: int) -> NDArray[Any]:
    """So many bytes of weights."""
    n = n_bytes // flat.itemsize
    made = np.empty(n, flat.dtype)
    for i, at in enumerate(range(0, n, flat.size)):
        part = made[at : at + flat.size]
        part[:] = np.roll(flat, 4099 * i)[: part.size]
    return made


def sizes(flat: NDArray[Any], most_bytes: int, patience: float) -> Iterator[tuple[str, ...]]:
    """A row for each size and codec."""
    slow: set[str] = set()
    for n_bytes in SIZES:
        if n_bytes > most_bytes:
            break
        array = array_of(flat, n_bytes)
        entered = [c for c in peers.codecs(array) if c.name in PEERS and c.name not in slow]
        rounds = 5 if n_bytes < 1 << 26 else 3
        for result in measure.race(array, entered, rounds=rounds, patience=patience):
            figures = result.json()
            record("growth", f"size {n_bytes} {result.codec}", bytes=n_bytes, **figures)
            each = n_bytes / 1e9 / result.encode_gbs + n_bytes / 1e9 / result.decode_gbs
            if 4 * each * (rounds + 1) > patience:  # the next size is four times as large
                slow.add(result.codec)
            yield (
                f"{n_bytes >> 10:,} KiB",
                result.codec,
                f"{result.ratio:.3f}",
                f"{result.encode_gbs:.3f}",
                f"{result.decode_gbs:.3f}",
            )


def threads(flat: NDArray[Any], most: int) -> Iterator[tuple[str, ...]]:
    """Wall time by number of threads, twice as many each time."""
    array = array_of(flat, 64 << 20)
    frame = gpucodec.encode(array)
    out = np.empty_like(array)
    n = 2
    while n <= most:
        encode = measure.scaling(lambda k: gpucodec.encode(array, threads=k), n, rounds=7)
        decode = measure.scaling(lambda k: gpucodec.decode(frame, out, threads=k), n, rounds=7)
        record("growth", f"threads {n}", n=n, encode_x=encode[0], decode_x=decode[0])
        yield str(n), f"{encode[0]:.2f}x", f"{decode[0]:.2f}x"
        n *= 2


def arrays(flat: NDArray[Any]) -> Iterator[tuple[str, ...]]:
    """Microseconds an array of 4 KiB: one by one, and as a batch."""
    for count in COUNTS:
        words = array_of(flat, SMALL_BYTES * count).reshape(count, -1)
        inputs = list(words)
        outs = list(np.empty_like(words))
        frames = gpucodec.encode_batch(inputs, threads=1)
        works = {
            "encode one": lambda x=inputs: [gpucodec.encode(a, threads=1) for a in x],
            "encode batch": lambda x=inputs: gpucodec.encode_batch(x, threads=1),
            "decode one": lambda x=frames, o=outs: [
                gpucodec.decode(f, out, threads=1) for f, out in zip(x, o, strict=True)
            ],
            "decode batch": lambda x=frames, o=outs: gpucodec.decode_batch(x, o, threads=1),
        }
        times: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(5):
            for name, work in works.items():
                begin = time.process_time()
                work()
                times[name].append(time.process_time() - begin)
        each = {name: 1e6 * statistics.median(t) / count for name, t in times.items()}
        record("growth", f"arrays {count}", count=count, **each)
        yield str(count), *(f"{value:.1f}" for value in each.values())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--size", default="full", help="of the corpus")
    parser.add_argument("--most-bytes", type=int, default=SIZES[-1], help="of an array")
    parser.add_argument("--patience", type=float, default=60, help="seconds of a codec at a size")
    options = parser.parse_args()
    measure.keep_freed_memory()
    flat = open_corpus(options.size).flat(KIND)
    available = psutil.virtual_memory().available // COPIES
    most = min(options.most_bytes, available)
    if most < options.most_bytes:
        print(f"arrays of at most {most / 1e9:.1f} GB: a fifth of the memory that is free")
    cores = len(os.sched_getaffinity(0))
    print("| threads | encode | decode |\n|--:|--:|--:|")
    for row in threads(flat, cores):
        print("| " + " | ".join(row) + " |", flush=True)
    measure.pin()
    print("\n| arrays of 4 KiB | encode, us each | batch | decode | batch |\n|--:|--:|--:|--:|--:|")
    for row in arrays(flat):
        print("| " + " | ".join(row) + " |", flush=True)
    print("\n| size | codec | ratio | encode GB/s | decode GB/s |\n|--:|---|--:|--:|--:|")
    for row in sizes(flat, most, options.patience):
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
