# SPDX-License-Identifier: Apache-2.0
"""Tensors that are another one rounded: bf16 weights beside their fp32 masters.

Such a pair is found by a sample, whatever the names, and proved on every bit; then the rounded
tensor is a reference and takes no space.
"""

from __future__ import annotations

from collections import defaultdict
from math import prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from . import grid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .leaves import Leaf
    from .parallel import Workers

    Host = np.ndarray[Any, np.dtype[Any]]

EXACT: Final = "float32"
ROUNDED: Final = ("bfloat16", "float16")
MIN_NUMEL: Final = 64  # a smaller tensor costs hardly more than the reference
_SAMPLE: Final = 256  # elements that decide which pairs are looked at in full
_PIECE: Final = (
    1 << 18
)  # elements rounded at once: they stay in caches, the GIL changes hands rarely


def round_into(exact: Host, out: Host, dtype: str) -> None:
    """Round float32 to nearest, ties to even, into `out`, of the same shape and `dtype`'s size.

    For bfloat16 that is ``(w + 0x7fff + (w >> 16 & 1)) >> 16`` of the words, whatever they mean;
    for float16 IEEE 754's conversion.
    """
    if dtype == "float16":
        with np.errstate(all="ignore"):  # infinity is the right answer to an overflow
            out.view(np.float16)[...] = exact
        return
    assert dtype == "bfloat16", dtype
    target = out if out.flags.c_contiguous else np.empty(out.shape, out.dtype)
    words = np.ascontiguousarray(exact).reshape(-1).view(np.uint32)
    halves = target.reshape(-1).view(np.uint16)
    memory = np.empty(min(_PIECE, words.size), np.uint32)
    for start in range(0, words.size, _PIECE):
        some = words[start : start + _PIECE]
        sums = memory[: some.size]
        np.right_shift(some, 16, out=sums)
        np.bitwise_and(sums, 1, out=sums)
        np.add(sums, some, out=sums)
        np.add(sums, np.uint32(0x7FFF), out=sums)
        np.right_shift(sums, 16, out=sums)
        halves[start : start + _PIECE] = sums
    if target is not out:
        out[...] = target


def find(
    leaves: Sequence[Leaf],
    workers: Workers,
    hints: Mapping[str, str] | None = None,
    min_numel: int = MIN_NUMEL,
) -> dict[str, str]:
    """By the names of tensors that are roundings: the names of what they are roundings of.

    Of several that fit, it is the one that `hints` name, else the first.
    """
    rounded = [
        leaf
        for leaf in leaves
        if leaf.dtype.name in ROUNDED and prod(leaf.shape) >= max(1, min_numel)
    ]
    shapes = {leaf.shape for leaf in rounded}
    exact = [leaf for leaf in leaves if leaf.dtype.name == EXACT and leaf.shape in shapes]
    if not exact:
        return {}
    samples: dict[tuple[str, tuple[int, ...], bytes], list[Leaf]] = defaultdict(list)
    for leaf in exact:
        sample = _sample(leaf)
        for dtype in {one.dtype.name for one in rounded if one.shape == leaf.shape}:
            words = np.empty(sample.shape, np.uint16)
            round_into(sample, words, dtype)
            samples[dtype, leaf.shape, words.tobytes()].append(leaf)

    def source(leaf: Leaf) -> str | None:
        key = (leaf.dtype.name, leaf.shape, _sample(leaf).tobytes())
        hint = (hints or {}).get(leaf.name)
        likely = sorted(samples.get(key, ()), key=lambda one: one.name != hint)
        return next((one.name for one in likely if _is_rounding(leaf, one)), None)

    sources = zip(rounded, workers.map(source, rounded), strict=True)
    return {leaf.name: name for leaf, name in sources if name is not None}


def _sample(leaf: Leaf) -> Host:
    """The first elements of the middle row."""
    middle = tuple(slice(n // 2, n // 2 + 1) for n in leaf.shape[:-1])
    return leaf.chunk((*middle, slice(0, _SAMPLE))).reshape(-1)


def _is_rounding(leaf: Leaf, source: Leaf) -> bool:
    """Compare all bits, chunk by chunk."""
    for box in grid.boxes(source.shape, grid.chunk_shape(source.shape, source.dtype.itemsize)):
        expected = leaf.chunk(box).view(np.uint16)
        words = np.empty(expected.shape, np.uint16)
        round_into(source.chunk(box), words, leaf.dtype.name)
        if not np.array_equal(words, expected):
            return False
    return True
