# SPDX-License-Identifier: Apache-2.0
"""Encode and decode: what most callers need."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import buffers, frame as frames, threads as pool
from .config import DEFAULT_CONFIG, TensorConfig
from .dtypes import from_numpy
from .errors import CorruptionError, TruncatedError
from .kernels import spec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .buffers import Bytes
    from .frame import Frame

    Array = np.ndarray[Any, np.dtype[Any]]

DEFAULT_LIMIT = 4 << 30  # decoded bytes accepted of a frame whose size the caller did not expect
VERIFY_BYTES = 16 << 20  # decoded at a time by verify
BUNDLE_BYTES = 1 << 18  # small arrays share a job until they have this many bytes


@cache
def _engine() -> Any:
    """The CPU engine, which imports Numba: on first use."""
    from . import cpu

    return cpu


def _gpu() -> Any:
    """The same for arrays on a GPU."""
    from . import cuda

    return cuda


class BadBlock(NamedTuple):
    """A block that could not be decoded."""

    block: int
    """Its number in the frame."""
    start: int
    """Offset of its first decoded byte."""
    stop: int
    """Offset behind its last decoded byte."""
    reason: str


class Salvaged(NamedTuple):
    """What is left of a damaged frame."""

    array: Array
    """The array; bytes of bad blocks are zero."""
    bad_blocks: list[BadBlock]


@dataclass(frozen=True)
class PlaneInfo:
    """How one plane of a frame is encoded."""

    bits: int
    """Bits of a symbol before encoding."""
    encoded_bytes: int
    """Payload bytes over all blocks."""
    coders: dict[str, int]
    """Blocks by coder."""


@dataclass(frozen=True)
class FrameInfo:
    """What a frame's header and table say."""

    dtype: str
    shape: tuple[int, ...]
    block_size: int
    """Words of a block."""
    n_blocks: int
    decoded_bytes: int
    encoded_bytes: int
    planes: tuple[PlaneInfo, ...]

    @property
    def ratio(self) -> float:
        """Decoded over encoded bytes."""
        return self.decoded_bytes / self.encoded_bytes


def encode(array: Any, config: TensorConfig | None = None, *, threads: int | None = None) -> Bytes:
    """Encode an array as one frame, losslessly.

    Parameters
    ----------
    array
        NumPy array of any shape, strides and byte order (ml_dtypes too), torch tensor, CuPy array,
        DLPack or `__array__` provider, or any buffer. The frame of an array on a GPU is there too.
    config
        How to encode it; the bytes depend on nothing else.
    threads
        The most threads to use; all that `set_threads` allows by default.

    Returns
    -------
    The frame, uint8[encoded_bytes]: write it anywhere a buffer can be written.

    Raises
    ------
    TypeError
        Not an array, tensor or buffer; or an object array.
    UnsupportedError
        A data type or device that cannot be encoded.

    """
    if buffers.is_on_gpu(array):
        return _gpu().encode(array, config)  # type: ignore[no-any-return]
    words, dtype, shape = buffers.elements(array)
    block_log = (config or DEFAULT_CONFIG).block_log(dtype.spec.word_bytes)
    frame: Bytes = _engine().encode(words, dtype, shape, block_log, threads)
    return frame


def decode(
    frame: Any,
    out: Any = None,
    *,
    limit: int | None = DEFAULT_LIMIT,
    threads: int | None = None,
    salvage: bool = False,
) -> Any:
    """Decode a frame and check every hash.

    Parameters
    ----------
    frame
        The frame's bytes: any contiguous buffer, or a uint8 array on a GPU.
    out
        Where to put the elements: a writable array, tensor or buffer of exactly the decoded size.
        Its data type and shape need not be the frame's; the bytes are copied as they are.
    limit
        Refuse frames that decode to more bytes, before allocating; ignored with `out`, whose size
        is the limit. None accepts any size.
    threads
        The most threads to use.
    salvage
        Return `Salvaged`: the array with zeros for damaged blocks, and a list of those.

    Returns
    -------
    `out`, or a new array of the frame's data type and shape.

    Raises
    ------
    TruncatedError, CorruptionError, UnsupportedError, LimitError
        What is wrong with the frame.
    ValueError
        `out` has another size.

    """
    if buffers.is_on_gpu(frame) or buffers.is_on_gpu(out):
        return _gpu().decode(frame, out, limit=limit, salvage=salvage)
    [result] = _decode([(buffers.encoded(frame), out)], limit, threads, salvage=salvage)
    return result if salvage else result.array


def encode_batch(
    arrays: Iterable[Any], config: TensorConfig | None = None, *, threads: int | None = None
) -> list[Bytes]:
    """Encode many arrays, side by side: `[encode(array, config) for array in arrays]`."""
    items = list(arrays)
    if len(items) == 1:
        return [encode(items[0], config, threads=threads)]
    if any(map(buffers.is_on_gpu, items)):
        return _gpu().encode_batch(items, config)  # type: ignore[no-any-return]
    results: list[Any] = [None] * len(items)

    def job(numbers: range) -> Any:
        def work() -> None:
            for i in numbers:
                results[i] = encode(items[i], config, threads=1)

        return work

    sizes = [getattr(item, "nbytes", 0) for item in items]
    pool.run((job(numbers) for numbers in _bundles(sizes)), threads)
    return results


def decode_batch(
    encoded: Iterable[Any],
    out: Sequence[Any] | None = None,
    *,
    limit: int | None = DEFAULT_LIMIT,
    threads: int | None = None,
) -> list[Any]:
    """Decode many frames, side by side, each as `decode` does; `limit` is for each."""
    given = list(encoded)
    targets = [None] * len(given) if out is None else list(out)
    if any(map(buffers.is_on_gpu, (*given, *targets))):
        return _gpu().decode_batch(given, out, limit=limit)  # type: ignore[no-any-return]
    items = [buffers.encoded(frame) for frame in given]
    if len(targets) != len(items):
        message = f"out has {len(targets)} targets for {len(items)} frames"
        raise ValueError(message)
    pairs = list(zip(items, targets, strict=True))
    return [result.array for result in _decode(pairs, limit, threads)]


def decode_blocks(
    frame: Frame, payload: Bytes, first: int, last: int, out: Bytes, *, threads: int | None = None
) -> None:
    """Decode blocks `first` to `last` - 1 of a parsed frame: the unit of partial reads.

    Parameters
    ----------
    frame
        From `gpucodec.frame.parse`.
    payload
        The frame's bytes from ``frame.offsets[first]`` to ``frame.offsets[last]``.
    out
        uint8 for the decoded bytes of these blocks.

    Raises
    ------
    TruncatedError
        The payload has another size.
    CorruptionError
        A block is damaged.

    """
    expected = int(frame.offsets[last] - frame.offsets[first])
    if payload.size != expected:
        message = f"blocks {first} to {last} have {expected} payload bytes, got {payload.size}"
        raise TruncatedError(message)
    start, stop = (min(b * frame.block_bytes, frame.decoded_bytes) for b in (first, last))
    assert out.size == stop - start, (out.size, stop - start)
    status = np.zeros(last - first, np.uint8)
    jobs = _engine().decode_jobs(frame, payload, first, last, out, status)
    pool.run((work for _, work in jobs), threads)
    raise_if_damaged(frame, status, first)


def inspect(frame: Any) -> FrameInfo:
    """What a frame's header and table say; nothing is decoded."""
    return describe(frames.parse(buffers.encoded(frame)))


def describe(parsed: Frame) -> FrameInfo:
    """`inspect` for a frame whose table is parsed already."""
    planes = []
    if not parsed.entries.shape[1]:
        stored = {"stored": parsed.n_blocks} if parsed.n_blocks else {}
        planes.append(PlaneInfo(8 * parsed.dtype.spec.word_bytes, parsed.decoded_bytes, stored))
    for p, bits in enumerate(parsed.dtype.spec.planes[: parsed.entries.shape[1]]):
        counts = np.bincount(parsed.coders[:, p], minlength=len(spec.CODER_NAMES))
        coders = {name: int(n) for name, n in zip(spec.CODER_NAMES, counts, strict=True) if n}
        planes.append(PlaneInfo(bits, int(parsed.payload_bytes[:, p].sum()), coders))
    return FrameInfo(
        parsed.dtype.name,
        parsed.shape,
        parsed.block_words,
        parsed.n_blocks,
        parsed.decoded_bytes,
        parsed.encoded_bytes,
        tuple(planes),
    )


def verify(frame: Any, *, threads: int | None = None) -> None:
    """Decode every block, check every hash, and keep nothing.

    Raises
    ------
    TruncatedError, CorruptionError, UnsupportedError
        What is wrong with the frame.

    """
    raw = buffers.encoded(frame)
    parsed = frames.parse(raw)
    step = max(1, VERIFY_BYTES // parsed.block_bytes)
    scratch = np.empty(min(step * parsed.block_bytes, parsed.decoded_bytes), np.uint8)
    for first in range(0, parsed.n_blocks, step):
        last = min(first + step, parsed.n_blocks)
        stop = min(last * parsed.block_bytes, parsed.decoded_bytes)
        payload = raw[parsed.offsets[first] : parsed.offsets[last]]
        out = scratch[: stop - first * parsed.block_bytes]
        decode_blocks(parsed, payload, first, last, out, threads=threads)


def max_encoded_size(
    shape: int | Sequence[int], dtype: Any, config: TensorConfig | None = None
) -> int:
    """The most bytes that a frame of an array of this shape and data type can have."""
    dims = (shape,) if isinstance(shape, int) else tuple(shape)
    found = from_numpy(np.dtype(dtype))
    block_log = (config or DEFAULT_CONFIG).block_log(found.spec.word_bytes)
    return frames.max_encoded_bytes(found, dims, block_log)


def _bundles(sizes: Sequence[int]) -> list[range]:
    """Neighbouring items, joined until a bundle is worth a job."""
    bundles, start, total = [], 0, 0
    for i, size in enumerate(sizes):
        total += size
        if total >= BUNDLE_BYTES:
            bundles.append(range(start, i + 1))
            start, total = i + 1, 0
    if start < len(sizes):
        bundles.append(range(start, len(sizes)))
    return bundles


def _decode(
    pairs: Sequence[tuple[Bytes, Any]],
    limit: int | None,
    threads: int | None,
    *,
    salvage: bool = False,
) -> list[Salvaged]:
    """Decode frames into their targets, all blocks of all frames in one set of jobs."""
    work, sizes, rows = [], [], []
    for raw, target in pairs:
        frame = frames.parse(raw, limit=limit if target is None else None)
        array = np.empty(frame.shape, frame.dtype.numpy) if target is None else target
        filled, finish = buffers.output(array, frame.decoded_bytes)
        status = np.zeros(frame.n_blocks, np.uint8)
        for size, job in _engine().decode_jobs(
            frame, raw[frame.payloads :], 0, frame.n_blocks, filled, status
        ):
            sizes.append(size)
            work.append(job)
        rows.append((frame, array, filled, finish, status))

    def bundle(numbers: range) -> Any:
        def run() -> None:
            for i in numbers:
                work[i]()

        return run

    pool.run((bundle(numbers) for numbers in _bundles(sizes)), threads)
    results = []
    for frame, array, filled, finish, status in rows:
        bad = [] if not status.any() else bad_blocks(frame, status)
        if bad and not salvage:
            filled[:] = 0  # what a damaged payload decodes to is nobody's data
            raise_if_damaged(frame, status)
        for block in bad:
            filled[block.start : block.stop] = 0
        finish()
        results.append(Salvaged(array, bad))
    return results


def bad_blocks(frame: Frame, status: Bytes) -> list[BadBlock]:
    """What is wrong with the blocks whose status, uint8[n_blocks], is not OK."""
    size = frame.block_bytes
    return [
        BadBlock(
            int(b),
            int(b) * size,
            min((int(b) + 1) * size, frame.decoded_bytes),
            spec.STATUS_TEXT[status[b]],
        )
        for b in np.flatnonzero(status)
    ]


def raise_if_damaged(frame: Frame, status: Bytes, first: int = 0) -> None:
    """CorruptionError for the first block that is not OK; `status` is of block `first` and more."""
    if not status.any():
        return
    bad = np.flatnonzero(status)
    b = int(bad[0])
    where = int(frame.offsets[first + b])
    others = f" (and {len(bad) - 1} more blocks)" if len(bad) > 1 else ""
    message = (
        f"block {first + b} of {frame.n_blocks}, at byte {where} of the frame: "
        f"{spec.STATUS_TEXT[status[b]]}{others}"
    )
    raise CorruptionError(message)
