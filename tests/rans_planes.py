# SPDX-License-Identifier: Apache-2.0
"""Symbol planes that put each rule of the entropy coder to work; as a script, their frames' hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

import gpucodec
from gpucodec import TensorConfig
from gpucodec.kernels import simd

BLOCK = 4096


def planes() -> Iterator[tuple[str, np.ndarray, TensorConfig]]:
    """Bytes, of which each block is one plane of 8-bit symbols."""
    rng = np.random.default_rng(20)
    small, whole = TensorConfig(BLOCK), TensorConfig()

    # Every frequency of a table of two, alone and beside a symbol of frequency 1.
    share = np.arange(1, 256).repeat(BLOCK) / 256
    two = (rng.random(share.size) < share).astype(np.uint8)
    yield "two symbols", two * 200, small
    rare = rng.random(share.size) < 1 / 400
    yield "three symbols", np.where(rare, 9, two * 200).astype(np.uint8), small

    sizes = np.arange(2, 257).repeat(2 * BLOCK)
    yield "uniform", (rng.random(sizes.size) * sizes).astype(np.uint8), TensorConfig(2 * BLOCK)
    for p in (0.02, 0.05, 0.2, 0.5, 0.9):
        yield (
            f"geometric {p}",
            np.minimum(rng.geometric(p, 65_536) - 1, 255).astype(np.uint8),
            whole,
        )
    yield "sorted", np.sort(np.minimum(rng.geometric(0.3, 65_536), 40).astype(np.uint8)), whole
    yield (
        "unseen by the sample",
        np.where(np.arange(65_536) % 512 < 64, 1, 2).astype(np.uint8),
        whole,
    )
    for count in (1, 3, 40, 700):
        outliers = np.minimum(rng.geometric(0.5, 65_536), 12).astype(np.uint8)
        at = rng.choice(65_536, count, replace=False)
        outliers[at] = rng.integers(100, 256, count)
        yield f"{count} outliers", outliers, whole
    only_tail = np.zeros(BLOCK, np.uint8)
    only_tail[-1] = 1
    yield "only the tail differs", only_tail, small


def entropy_bytes(symbols: np.ndarray) -> float:
    """What an ideal order-0 coder needs for a plane."""
    counts = np.bincount(symbols)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


if __name__ == "__main__":
    digest = hashlib.sha256()
    for label, symbols, config in planes():
        frame = gpucodec.encode(symbols, config)
        assert (gpucodec.decode(frame) == symbols).all(), label
        digest.update(frame)
    print(digest.hexdigest(), simd.LEVEL)
