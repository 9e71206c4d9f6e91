# SPDX-License-Identifier: Apache-2.0
"""The CPU engine: Numba kernels over runs of blocks, from a pool of threads."""

from __future__ import annotations

import threading
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from . import cpu_lz, threads as pool
from .config import LZConfig
from .frame import max_encoded_bytes, max_payload_bytes, payloads_start, write_table
from .kernels import spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .buffers import Bytes
    from .config import Config
    from .dtypes import DType
    from .frame import Frame

RUN_BYTES = 1 << 20  # decoded bytes of a run: some 0.3 ms of work, and its output stays in cache
WRITE_SLACK = 64  # what a vector store may write past its last byte

_MAX_BLOCK = 1 << spec.MAX_BLOCK_LOG


@cache
def _encoder() -> Any:
    """The module of `encode_blocks`: importing it compiles it, or loads it from the disk."""
    from .kernels import encode

    return encode


@cache
def _decoder() -> Any:
    """The module of `decode_blocks`, likewise."""
    from .kernels import decode

    return decode


class _Scratch(threading.local):
    """Working memory of one thread; made on first use, untouched pages cost nothing."""

    def __init__(self) -> None:
        self.run = np.empty(0, np.uint8)

    @cached_property
    def encode(self) -> Any:
        return _encoder().scratch(_MAX_BLOCK)

    @cached_property
    def decode(self) -> Any:
        return _decoder().scratch(_MAX_BLOCK)

    def for_run(self, n_bytes: int) -> Bytes:
        if self.run.size < n_bytes:
            self.run = np.empty(n_bytes, np.uint8)
        return self.run


_scratch = _Scratch()


class _Placement:
    """Hands out places in the output in the order of the runs, as soon as sizes are known."""

    def __init__(self, start: int) -> None:
        self.turn = threading.Condition()
        self.next_run = 0
        self.position = start
        self.failed = False

    def place(self, run: int, size: int) -> int:
        """Where run number `run` goes; waits until all earlier runs are placed."""
        with self.turn:
            self.turn.wait_for(lambda: self.next_run == run or self.failed)
            if self.failed:
                message = "another thread failed"
                raise RuntimeError(message)
            where = self.position
            self.position += size
            self.next_run += 1
            self.turn.notify_all()
            return where

    def fail(self) -> None:
        with self.turn:
            self.failed = True
            self.turn.notify_all()


def _runs(n_blocks: int, block_bytes: int) -> list[tuple[int, int]]:
    """Runs of blocks (first, last): an even number of blocks each, since they go in pairs."""
    length = max(2, RUN_BYTES // block_bytes // 2 * 2)
    return [(first, min(first + length, n_blocks)) for first in range(0, n_blocks, length)]


def _room(dtype: DType, n_words: int, block_log: int, config: Config) -> int:
    """Bytes to provide for the payloads of `n_words` words."""
    if isinstance(config, LZConfig):
        return cpu_lz.room(n_words * dtype.spec.word_bytes, -(-n_words >> block_log))
    return max_payload_bytes(dtype, n_words, block_log) + WRITE_SLACK


def encode(
    words: Bytes, dtype: DType, shape: tuple[int, ...], config: Config, threads: int | None
) -> Bytes:
    """Encode little-endian words (uint8, contiguous) as one frame (uint8)."""
    row = dtype.spec
    block_log = config.block_log(row.word_bytes)
    start = payloads_start(dtype, shape, block_log)
    n_words = words.size // row.word_bytes
    most = max_encoded_bytes(dtype, shape, block_log)
    out = np.empty(max(most, start + _room(dtype, n_words, block_log, config)), np.uint8)
    n_blocks = -(-n_words >> block_log)
    entries = np.empty((n_blocks, len(row.planes)), np.uint32)
    hashes = np.empty(n_blocks, np.uint64)
    block_bytes = row.word_bytes << block_log

    def encode_run(first: int, last: int, target: Bytes) -> int:
        run = words[first * block_bytes : last * block_bytes]
        table = entries[first:last]
        if isinstance(config, LZConfig):
            return cpu_lz.encode_run(run, dtype, config, target, table, hashes[first:last])
        size: int = _encoder().encode_blocks(
            run,
            1 << block_log,
            row.word_bytes,
            row.transform,
            dtype.bits,
            target,
            table,
            hashes[first:last],
            _scratch.encode,
        )
        return cpu_lz.shrink_run(run, dtype, block_log, size, target, table) if config.lz else size

    runs = _runs(n_blocks, block_bytes)
    if len(runs) < 2 or threads == 1:  # noqa: PLR2004
        end = start
        for run in runs:
            end += encode_run(*run, out[end:])
    else:
        placement = _Placement(start)
        room = _room(dtype, (runs[0][1] - runs[0][0]) << block_log, block_log, config)

        def place_run(number: int, first: int, last: int) -> None:
            try:
                target = _scratch.for_run(room)
                size = encode_run(first, last, target)
            except BaseException:
                placement.fail()
                raise
            where = placement.place(number, size)
            out[where : where + size] = target[:size]

        def job(number: int, run: tuple[int, int]) -> Callable[[], None]:
            return lambda: place_run(number, *run)

        pool.run([job(number, run) for number, run in enumerate(runs)], threads)
        end = placement.position
    if end >= most:  # nothing gained: store the words as they are
        out[most - words.size : most] = words
        end, entries = most, entries[:, :0]
    write_table(out, dtype, shape, block_log, end, hashes, entries)
    out.resize(end, refcheck=False)
    return out


def decode_jobs(
    frame: Frame, payload: Bytes, first: int, last: int, out: Bytes, status: Bytes
) -> Iterator[tuple[int, Callable[[], None]]]:
    """Jobs (decoded bytes, work) that decode blocks `first` to `last` - 1 into `out`.

    `payload` starts with the payloads of block `first`; `status` uint8[last - first] says how
    each block went, in the codes of the format.
    """
    row = frame.dtype.spec
    offsets = frame.offsets
    size = frame.block_bytes

    def decode_planes(source: Bytes, entries: Any, hashes: Any, raw: Bytes, found: Bytes) -> None:
        _decoder().decode_blocks(
            source,
            entries,
            hashes,
            frame.block_words,
            row.word_bytes,
            row.transform,
            frame.dtype.bits,
            raw,
            found,
            _scratch.decode,
        )

    def job(a: int, b: int) -> Callable[[], None]:
        def work() -> None:
            source = payload[offsets[a] - offsets[first] : offsets[b] - offsets[first]]
            raw = out[(a - first) * size : (b - first) * size]
            found = status[a - first : b - first]
            if frame.has_lz:
                cpu_lz.decode_run(frame, a, b, source, raw, found, decode_planes)
            else:
                decode_planes(source, frame.entries[a:b], frame.hashes[a:b], raw, found)

        return work

    for a, b in _runs(last - first, size):
        yield (b - a) * size, job(first + a, first + b)
