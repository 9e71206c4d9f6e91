# SPDX-License-Identifier: Apache-2.0
"""LZ in the CPU engine. Its kernels are imported, and so compiled, when a block needs them."""

from __future__ import annotations

import threading
from functools import cache, cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from .config import LEVELS
from .kernels import spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from .buffers import Bytes
    from .config import LZConfig
    from .dtypes import DType
    from .frame import Frame

    Entries = np.ndarray[Any, np.dtype[np.uint32]]
    Hashes = np.ndarray[Any, np.dtype[np.uint64]]

BLOCK_SLACK = 64  # bytes by which a block's payload may exceed its words
_PLANES, _WHOLE, _MIXED = range(3)  # how a block is decoded


@cache
def _encoder() -> Any:
    """The module of `encode_blocks`: importing it compiles it, or loads it from the disk."""
    from .kernels import lz_encode_blocks

    return lz_encode_blocks


@cache
def _shrinker() -> Any:
    """The module of `shrink_blocks`, likewise."""
    from .kernels import lz_shrink_blocks

    return lz_shrink_blocks


@cache
def _decoder() -> Any:
    """The module of `decode_blocks`, likewise."""
    from .kernels import lz_decode_blocks

    return lz_decode_blocks


@cache
def _expander() -> Any:
    """The module of `expand_blocks`, likewise."""
    from .kernels import lz_expand_blocks

    return lz_expand_blocks


class _Scratch(threading.local):
    """Working memory of one thread; made on first use, untouched pages cost nothing."""

    @cached_property
    def encode(self) -> Any:
        return _encoder().scratch()

    @cached_property
    def shrink(self) -> Any:
        return _shrinker().scratch()

    @cached_property
    def decode(self) -> Any:
        from .kernels import lz

        return lz.scratch()


_scratch = _Scratch()


def room(n_bytes: int, n_blocks: int) -> int:
    """Bytes to provide for payloads of `encode_run`."""
    return n_bytes + BLOCK_SLACK * (n_blocks + 1)


def encode_run(
    words: Bytes, dtype: DType, config: LZConfig, out: Bytes, entries: Entries, hashes: Hashes
) -> int:
    """Encode blocks, each by LZ or as it is; bytes of the payloads in `out`."""
    word_bytes = dtype.spec.word_bytes
    block_bytes = word_bytes << config.block_log(word_bytes)
    element_bytes = config.typesize or (word_bytes if word_bytes > 1 else 0)  # 0: detect
    level = LEVELS.index(config.level)
    size: int = _encoder().encode_blocks(
        words, block_bytes, element_bytes, level, out, entries, hashes, _scratch.encode
    )
    return size


def shrink_run(
    words: Bytes, dtype: DType, block_log: int, size: int, out: Bytes, entries: Entries
) -> int:
    """Replace payloads in `out`, `size` bytes so far, that LZ makes smaller; bytes that remain.

    Dense floats stay as they are, and do not load the kernels: matches need whole words that
    occur again, and where most words are one value, every plane is coded in half its size.
    """
    row = dtype.spec
    by_planes = row.transform not in {spec.ROTATE, spec.ROTATE_BIAS}
    if not by_planes and max(entries[:, -1].tolist()) >> spec.ENTRY_CODER_SHIFT == spec.RAW:
        return size  # the usual case, without the work below: the last bits are noise
    sizes = entries & spec.ENTRY_ARGUMENT_MASK
    sizes[entries >> spec.ENTRY_CODER_SHIFT == spec.CONSTANT] = 0
    tried: Any = sizes.sum(axis=1) > spec.ALIGNMENT  # there is something to gain
    if not by_planes:
        n_words = np.full((len(entries), 1), 1 << block_log)
        n_words[-1] = words.size // row.word_bytes - (len(entries) - 1 << block_log)
        tried &= (sizes <= n_words // 2).all(axis=1)
    if not tried.any():
        return size
    shrunk: int = _shrinker().shrink_blocks(
        words,
        1 << block_log,
        row.word_bytes,
        row.transform,
        dtype.bits,
        tried,
        by_planes,
        LEVELS.index("ratio"),
        out,
        entries,
        _scratch.shrink,
    )
    return shrunk


def decode_run(
    frame: Frame,
    first: int,
    last: int,
    payload: Bytes,
    out: Bytes,
    status: Bytes,
    decode_planes: Callable[[Bytes, Entries, Hashes, Bytes, Bytes], None],
) -> None:
    """Decode blocks `first` to `last` - 1 of a frame with LZ; arguments as of `cpu.decode_jobs`.

    `decode_planes` decodes blocks without LZ.
    """
    offsets = frame.offsets[first : last + 1] - frame.offsets[first]
    coders = frame.coders[first:last]
    kinds = np.where((coders == spec.LZ).any(axis=1), _MIXED, _PLANES)
    kinds[coders[:, 0] == (spec.LZ if coders.shape[1] == 1 else spec.LZ_WORDS)] = _WHOLE
    changes = np.flatnonzero(np.diff(kinds)) + 1
    for a, b in pairwise([0, *changes.tolist(), last - first]):
        source = payload[offsets[a] : offsets[b]]
        entries = frame.entries[first + a : first + b]
        hashes = frame.hashes[first + a : first + b]
        raw = out[a * frame.block_bytes : b * frame.block_bytes]
        if kinds[a] == _WHOLE:
            _decoder().decode_blocks(
                source, entries, hashes, frame.block_bytes, raw, status[a:b], _scratch.decode
            )
            continue
        if kinds[a] == _MIXED:
            source, entries, found = _expanded(frame, entries, source, raw.size)
            decode_planes(source, entries, hashes, raw, status[a:b])
            np.copyto(status[a:b], found, where=found != spec.OK)  # what is wrong first
            continue
        decode_planes(source, entries, hashes, raw, status[a:b])


def _expanded(
    frame: Frame, entries: Entries, payload: Bytes, n_bytes: int
) -> tuple[Bytes, Entries, Bytes]:
    """Payloads and entries of blocks of `n_bytes` bytes with LZ planes made raw; their status."""
    n_planes = int((entries >> spec.ENTRY_CODER_SHIFT == spec.LZ).sum())
    out = np.empty(payload.size + n_planes * frame.block_words, np.uint8)
    found = np.zeros(len(entries), np.uint8)
    entries = entries.copy()
    n_words = n_bytes // frame.dtype.spec.word_bytes
    _expander().expand_blocks(
        payload, frame.block_words, n_words, out, entries, found, _scratch.decode
    )
    return out, entries, found
