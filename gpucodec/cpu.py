# SPDX-License-Identifier: Apache-2.0
"""The CPU engine: Numba kernels over runs of blocks, from a pool of threads."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from . import cpu_lz, plan, predicted, threads as pool
from .config import PLAIN, LZConfig, TensorConfig
from .dtypes import BY_NAME
from .errors import CorruptionError
from .frame import (
    entries_a_block,
    max_encoded_bytes,
    max_payload_bytes,
    payloads_start,
    plane_bits,
    write_table,
)
from .kernels import spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .buffers import Bytes
    from .config import Config
    from .dtypes import DType
    from .frame import Frame

    Entries = np.ndarray[tuple[int, int], np.dtype[np.uint32]]
    Hashes = np.ndarray[tuple[int], np.dtype[np.uint64]]

RUN_BYTES = 1 << 20  # decoded bytes of a run: some 0.3 ms of work, and its output stays in cache
WRITE_SLACK = 64  # what a vector store may write past its last byte

_MAX_BLOCK = 1 << spec.MAX_SPARSE_BLOCK_LOG


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

    @cached_property
    def encode_full(self) -> Any:
        from .kernels.encode_full import scratch

        return scratch(_MAX_BLOCK)

    @cached_property
    def decode_full(self) -> Any:
        from .kernels.decode_full import scratch

        return scratch(_MAX_BLOCK)

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


@dataclass(slots=True)
class _Encoding:
    """One way to encode the blocks of an array."""

    words: Bytes
    dtype: DType
    block_log: int
    profile: int
    flags: int = 0
    model: Any = None
    """A `kernels.predictor.Model` if the flags say so."""
    lz: bool = False
    """Whether blocks and planes may be coded by LZ instead; no flags then."""
    only_lz: LZConfig | None = None
    """All blocks are coded by LZ, or left as they are."""

    @property
    def n_blocks(self) -> int:
        return -(-self.words.size // self.block_bytes)

    @property
    def block_bytes(self) -> int:
        return self.dtype.spec.word_bytes << self.block_log

    @property
    def n_entries(self) -> int:
        return entries_a_block(self.dtype, self.flags)

    def room(self, n_blocks: int) -> int:
        """The most bytes that this many blocks can take, and what a store may overlap."""
        n_bytes = min(n_blocks * self.block_bytes, self.words.size)
        if self.only_lz:
            return cpu_lz.room(n_bytes, n_blocks)
        n_words = n_bytes // self.dtype.spec.word_bytes
        most = max_payload_bytes(self.dtype, n_words, self.block_log, self.flags)
        return most + WRITE_SLACK

    def run(
        self, first: int, last: int, out: Bytes, entries: Entries, hashes: Hashes
    ) -> tuple[int, int]:
        """Encode blocks `first` to `last` - 1: bytes written to `out`, blocks packed."""
        row = self.dtype.spec
        words = self.words[first * self.block_bytes : last * self.block_bytes]
        if self.only_lz:
            return cpu_lz.encode_run(words, self.dtype, self.only_lz, out, entries, hashes), 0
        bits = self.dtype.bits
        if self.flags & spec.PREDICTED:
            bits = np.array(plane_bits(self.dtype, self.flags), np.uint8)
        fixed = 1 << self.block_log, row.word_bytes, row.transform, bits
        if self.profile == spec.PROFILE_RATIO and not self.flags:
            encode_blocks = _encoder().encode_blocks
            size = encode_blocks(words, *fixed, out, entries, hashes, _scratch.encode)
            return self.shrink(words, size, out, entries), 0
        from .kernels.encode_full import encode_blocks as full
        from .kernels.predictor import NO_MODEL

        sparse, predicted = self.flags & spec.SPARSE != 0, self.flags & spec.PREDICTED != 0
        places = out, entries, hashes, _scratch.encode_full
        first_word = first << self.block_log
        transforms = self.profile, sparse, predicted, self.model or NO_MODEL
        size, n_packed = full()(words, first_word, *fixed, *transforms, *places)
        return self.shrink(words, size, out, entries), n_packed

    def shrink(self, words: Bytes, size: int, out: Bytes, entries: Entries) -> int:
        """Let LZ replace payloads in `out`, if it may; bytes that remain."""
        if not self.lz:
            return size
        return cpu_lz.shrink_run(words, self.dtype, self.block_log, size, out, entries)

    def sample_bytes(self, blocks: Iterable[int]) -> int:
        """Payloads and entries of some blocks."""
        out = np.empty(self.room(1), np.uint8)
        entries, hashes = np.empty((1, self.n_entries), np.uint32), np.empty(1, np.uint64)
        return sum(
            self.run(block, block + 1, out, entries, hashes)[0] + entries.nbytes for block in blocks
        )


def encode(
    words: Bytes, dtype: DType, shape: tuple[int, ...], config: Config, threads: int | None
) -> Bytes:
    """Encode little-endian words (uint8, contiguous) as one frame (uint8)."""
    block_log = config.block_log(dtype.spec.word_bytes)
    if isinstance(config, LZConfig):
        by_lz = _Encoding(words, dtype, block_log, spec.PROFILE_RATIO, only_lz=config)
        return _frame(by_lz, shape, b"", threads)
    if config.profile == PLAIN:
        return _frame(_Encoding(words, dtype, block_log, spec.PROFILE_RATIO), shape, b"", threads)
    profile = spec.PROFILES.index(config.profile)
    sample = plan.zero_sample(words, dtype)
    flags = spec.SPARSE if plan.has_zeros(sample, dtype) else 0
    if flags:
        n_words = words.size // dtype.spec.word_bytes
        block_log = plan.sparse_block_log(sample, dtype, n_words, config)
    plain = _Encoding(words, dtype, block_log, profile, flags)
    # Of floats with zeros, a mask says more; but the most frequent of ids may well be 0.
    is_masked = flags and plan.is_float(dtype)
    by_itself = config.lz is None and not is_masked and profile != spec.PROFILE_FAST
    if config.lz or (by_itself and plan.may_repeat(words, dtype)):
        by_lz = _Encoding(words, dtype, block_log, profile, lz=True)
        if not flags or _is_smaller(by_lz, 0, plain):
            plain, flags = by_lz, 0
    model = plan.find_model(words, dtype, shape, profile)
    if model is not None:
        predicted = replace(plain, flags=flags | spec.PREDICTED, model=model, lz=False)
        section = _pack_model(model)
        if _is_smaller(predicted, len(section), plain):
            return _frame(predicted, shape, section, threads)
    return _frame(plain, shape, b"", threads)


def _pack_model(model: Any) -> bytes:
    from .kernels.predictor import join

    offsets = join(model)
    encoded = encode(offsets, BY_NAME["uint8"], offsets.shape, TensorConfig(lz=False), 1)
    return predicted.pack(model.n_columns, model.tile_rows, model.base, model.rank, encoded)


def _is_smaller(one: _Encoding, model_bytes: int, other: _Encoding) -> bool:
    """Whether the blocks of one, with its model, are smaller than those of the other, by some of them."""
    blocks = plan.measured_blocks(one.n_blocks)
    gain = other.sample_bytes(blocks) - one.sample_bytes(blocks)
    return plan.saves_enough(gain, one.n_blocks, model_bytes)


def _frame(encoding: _Encoding, shape: tuple[int, ...], model: bytes, threads: int | None) -> Bytes:
    """Encode all blocks and write the frame."""
    words, dtype, block_log = encoding.words, encoding.dtype, encoding.block_log
    flags, n_blocks = encoding.flags, encoding.n_blocks
    start = payloads_start(dtype, shape, block_log, flags) + len(model)
    out = np.empty(start + encoding.room(n_blocks), np.uint8)
    entries = np.empty((n_blocks, encoding.n_entries), np.uint32)
    hashes = np.empty(n_blocks, np.uint64)
    packed = []

    def encode_run(first: int, last: int, target: Bytes) -> int:
        places = target, entries[first:last], hashes[first:last]
        size, n_packed = encoding.run(first, last, *places)
        packed.append(n_packed)
        return size

    runs = _runs(n_blocks, encoding.block_bytes)
    if len(runs) < 2 or threads == 1:  # noqa: PLR2004
        end = start
        for run in runs:
            end += encode_run(*run, out[end:])
    else:
        placement = _Placement(start)
        room = encoding.room(runs[0][1] - runs[0][0])

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
    again = flags & spec.SPARSE and plan.second_try(entries, flags, block_log, packed=any(packed))
    if again:
        return _frame(replace(encoding, **again), shape, model, threads)  # type: ignore[arg-type]
    most = max_encoded_bytes(dtype, shape, block_log)
    if end >= most:  # nothing gained: store the words as they are
        if out.size < most:
            out = np.empty(most, np.uint8)
        out[most - words.size : most] = words
        end, entries, flags, model = most, entries[:, :0], spec.STORED, b""
    write_table(out, dtype, shape, block_log, end, hashes, entries, flags, model)
    out.resize(end, refcheck=False)
    return out


def _model(frame: Frame) -> Any:
    """The model of a predicted frame, decoded once.

    Raises
    ------
    CorruptionError
        It is not valid.

    """
    if "model" not in frame.memo:
        from .kernels.predictor import split

        section = predicted.parse(frame)
        offsets = np.empty(section.offsets.decoded_bytes, np.uint8)
        table = section.offsets
        status = np.zeros(table.n_blocks, np.uint8)
        payload = section.encoded[table.payloads :]
        for _, work in decode_jobs(table, payload, 0, table.n_blocks, offsets, status):
            work()
        if status.any():
            message = f"offsets of the model: {spec.STATUS_TEXT[status.max()]}"
            raise CorruptionError(message)
        n_rows = frame.n_words // section.n_columns
        sizes = n_rows, section.n_columns, section.tile_rows, section.rank
        frame.memo["model"] = split(offsets, frame.dtype.name, *sizes, section.base)
    return frame.memo["model"]


def _block_decoder(frame: Frame) -> Callable[..., None]:
    """Decodes blocks without LZ: their first number, payloads, entries, hashes, output, status."""
    row = frame.dtype.spec
    fixed = frame.block_words, row.word_bytes, row.transform, frame.bits
    if not (frame.flags & (spec.SPARSE | spec.PREDICTED) or frame.has_palettes):
        decode_run = _decoder().decode_blocks

        def dense(_first: int, payloads: Bytes, *places: Any) -> None:
            entries, hashes, target, found = places
            decode_run(payloads, entries, hashes, *fixed, target, found, _scratch.decode)

        return dense
    from .kernels.decode_full import decode_blocks
    from .kernels.predictor import NO_MODEL

    decode_any_run = decode_blocks()
    is_sparse, is_predicted = frame.flags & spec.SPARSE != 0, frame.flags & spec.PREDICTED != 0
    transforms = is_sparse, is_predicted, _model(frame) if is_predicted else NO_MODEL

    def full(first: int, payloads: Bytes, *places: Any) -> None:
        entries, hashes, target, found = places
        words = first << frame.block_log, *fixed, *transforms
        decode_any_run(payloads, entries, hashes, *words, target, found, _scratch.decode_full)

    return full


def decode_jobs(
    frame: Frame, payload: Bytes, first: int, last: int, out: Bytes, status: Bytes
) -> Iterator[tuple[int, Callable[[], None]]]:
    """Jobs (decoded bytes, work) that decode blocks `first` to `last` - 1 into `out`.

    `payload` starts with the payloads of block `first`; `status` uint8[last - first] says how
    each block went, in the codes of the format.

    Raises
    ------
    CorruptionError
        The model of the frame is not valid.

    """
    offsets = frame.offsets
    size = frame.block_bytes
    decode_blocks = _block_decoder(frame)

    def job(a: int, b: int) -> Callable[[], None]:
        def work() -> None:
            source = payload[offsets[a] - offsets[first] : offsets[b] - offsets[first]]
            raw = out[(a - first) * size : (b - first) * size]
            found = status[a - first : b - first]
            if frame.has_lz:
                cpu_lz.decode_run(frame, a, b, source, raw, found, partial(decode_blocks, a))
            else:
                decode_blocks(a, source, frame.entries[a:b], frame.hashes[a:b], raw, found)

        return work

    for a, b in _runs(last - first, size):
        yield (b - a) * size, job(first + a, first + b)
