# SPDX-License-Identifier: Apache-2.0
"""Encode and decode: what most callers need."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import buffers, frame as frames, predicted, threads as pool
from .config import DEFAULT_CONFIG, Config
from .dtypes import from_numpy
from .errors import CorruptionError, GpucodecError
from .kernels import quantspec, spec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .buffers import Bytes
    from .frame import Frame
    from .quant import QuantizeConfig, QuantizedInfo

    Array = np.ndarray[Any, np.dtype[Any]]

DEFAULT_LIMIT = 4 << 30  # decoded bytes accepted of a frame whose size the caller did not expect
VERIFY_BYTES = 16 << 20  # decoded at a time by verify
BUNDLE_BYTES = 1 << 18  # small arrays share a job until they have this many bytes
WINDOW = 256  # frames decoded together: parsed, they are work for Python's garbage collector


@cache
def _engine() -> Any:
    """The CPU engine, which imports Numba: on first use."""
    from . import cpu

    return cpu


def _gpu() -> Any:
    """The same for arrays on a GPU."""
    from . import cuda

    return cuda


def _quantized() -> Any:
    """The codec of quantized tensors, which is built on this one."""
    from .quant import codec

    return codec


def is_quantized(raw: Bytes) -> bool:
    """Whether bytes start like the container of a quantized tensor."""
    return raw[: len(quantspec.MAGIC)].tobytes() == quantspec.MAGIC


class BadBlock(NamedTuple):
    """A block that could not be decoded."""

    block: int
    """Its number in the frame; of a quantized tensor, in the part that `reason` names."""
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
    role: str = "words"
    """What it is a plane of: "words", or "mask" or "signs" of the zeros of a sparse frame."""


@dataclass(frozen=True)
class ModelInfo:
    """The rows and columns whose scale a predicted frame takes off its words."""

    n_rows: int
    n_columns: int
    tile_rows: int
    """Rows that share the offsets of the columns."""
    rank: int
    """Patterns that rows share to a different degree."""
    encoded_bytes: int


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
    packed_blocks: int = 0
    """Blocks of a sparse frame of which the zeros are left out."""
    model: ModelInfo | None = None
    """Of a predicted frame."""

    @property
    def ratio(self) -> float:
        """Decoded over encoded bytes."""
        return self.decoded_bytes / self.encoded_bytes


def encode(array: Any, config: Config | None = None, *, threads: int | None = None) -> Bytes:
    """Encode an array as one frame, losslessly.

    Parameters
    ----------
    array
        NumPy array of any shape, strides and byte order (ml_dtypes too), torch tensor, CuPy array,
        DLPack or `__array__` provider, or any buffer. The frame of an array on a GPU is there too.
    config
        How to encode it, a `TensorConfig` or `LZConfig`; the bytes depend on nothing else.
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
    frame: Bytes = _engine().encode(words, dtype, shape, config or DEFAULT_CONFIG, threads)
    return frame


def decode(
    frame: Any,
    out: Any = None,
    *,
    limit: int | None = DEFAULT_LIMIT,
    threads: int | None = None,
    salvage: bool = False,
) -> Any:
    """Decode a frame and check every hash; that of a quantized tensor is dequantized, too.

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
    raw = buffers.encoded(frame)
    if is_quantized(raw):
        return _quantized().decode_quantized(
            raw, out, limit=limit, threads=threads, salvage=salvage
        )
    [result] = _decode([(raw, out)], limit, threads, salvage=salvage)
    return result if salvage else result.array


def encode_batch(
    arrays: Iterable[Any], config: Config | None = None, *, threads: int | None = None
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
    """Decode many frames, side by side, each as `decode` does; `limit` is for each.

    An error carries a note that says which frame it is about, counted from 0.
    """
    given = list(encoded)
    targets = [None] * len(given) if out is None else list(out)
    if any(map(buffers.is_on_gpu, (*given, *targets))):
        return _gpu().decode_batch(given, out, limit=limit)  # type: ignore[no-any-return]
    items = [buffers.encoded(frame) for frame in given]
    if len(targets) != len(items):
        message = f"out has {len(targets)} targets for {len(items)} frames"
        raise ValueError(message)
    pairs = list(zip(items, targets, strict=True))
    plain = [i for i, raw in enumerate(items) if not is_quantized(raw)]
    windows = (plain[at : at + WINDOW] for at in range(0, len(plain), WINDOW))
    decoded = (_decode([pairs[i] for i in w], limit, threads, numbers=w) for w in windows)
    results = dict(zip(plain, (one.array for part in decoded for one in part), strict=True))
    for i, (raw, target) in enumerate(pairs):
        if i not in results:
            with noting(i):
                results[i] = decode(raw, target, limit=limit, threads=threads)
    return [results[i] for i in range(len(items))]


class noting:  # noqa: N801 - a context, as those of contextlib, which cost a lone frame more
    """Have errors say which frame of a batch they are about."""

    __slots__ = ("number",)

    def __init__(self, number: int | None) -> None:
        self.number = number

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if self.number is not None and isinstance(error, GpucodecError):
            error.add_note(f"frame {self.number} of the batch")


def decode_blocks(
    frame: Frame, payload: Bytes, first: int, last: int, out: Bytes, *, threads: int | None = None
) -> None:
    """Decode blocks `first` to `last` - 1 of a parsed frame: the unit of partial reads.

    Parameters
    ----------
    frame
        From `gpucodec.frame.parse`.
    payload
        The frame's bytes from ``frame.offsets[first]`` to ``frame.offsets[last]``, on the host or a GPU.
    out
        uint8 for the decoded bytes of these blocks, there.

    Raises
    ------
    TruncatedError
        The payload has another size.
    CorruptionError
        A block is damaged.

    """
    decode_runs([(frame, payload, first, last, out)], threads=threads)


def decode_runs(
    runs: Sequence[tuple[Frame, Bytes, int, int, Bytes]], *, threads: int | None = None
) -> None:
    """`decode_blocks` for many runs (frame, payload, first, last, out), side by side."""
    if any(buffers.is_on_gpu(payload) for _, payload, *_ in runs):
        _gpu().decode_runs(runs)
        return
    found, work = [], []
    for frame, payload, first, last, out in runs:
        frame.require_payload(first, last, payload.size)
        start, stop = (min(b * frame.block_bytes, frame.decoded_bytes) for b in (first, last))
        assert out.size == stop - start, (out.size, stop - start)
        status = np.zeros(last - first, np.uint8)
        jobs = _engine().decode_jobs(frame, payload, first, last, out, status)
        work += [job for _, job in jobs]
        found.append((frame, status, first))
    pool.run(work, threads)
    for frame, status, first in found:
        raise_if_damaged(frame, status, first)


def inspect(frame: Any) -> FrameInfo | QuantizedInfo:
    """What a frame's header and table say; nothing is decoded."""
    raw = buffers.encoded(frame)
    if is_quantized(raw):
        return _quantized().inspect(raw)  # type: ignore[no-any-return]
    return describe(frames.parse(raw))


def describe(parsed: Frame) -> FrameInfo:
    """`inspect` for a frame whose table is parsed already."""
    planes = []
    if not parsed.entries.shape[1]:
        stored = {"stored": parsed.n_blocks} if parsed.n_blocks else {}
        planes.append(PlaneInfo(8 * parsed.dtype.spec.word_bytes, parsed.decoded_bytes, stored))
    widths = [(int(bits), "words") for bits in parsed.bits]
    n_packed = 0
    if parsed.flags & spec.SPARSE:
        widths = [(spec.MASK_BITS, "mask"), (1, "signs"), *widths]
        n_packed = int(np.count_nonzero(parsed.entries[:, 0] != spec.NOT_PACKED[0]))
    for p, (bits, role) in enumerate(widths):
        counts = np.bincount(parsed.coders[:, p])
        coders = {spec.CODER_NAMES[coder]: int(n) for coder, n in enumerate(counts) if n}
        planes.append(PlaneInfo(bits, int(parsed.payload_bytes[:, p].sum()), coders, role))
    return FrameInfo(
        parsed.dtype.name,
        parsed.shape,
        parsed.block_words,
        parsed.n_blocks,
        parsed.decoded_bytes,
        parsed.encoded_bytes,
        tuple(planes),
        n_packed,
        _describe_model(parsed) if parsed.flags & spec.PREDICTED else None,
    )


def _describe_model(parsed: Frame) -> ModelInfo:
    section = predicted.parse(parsed)
    n_rows = parsed.n_words // section.n_columns
    found = n_rows, section.n_columns, section.tile_rows, section.rank
    return ModelInfo(*found, parsed.model.size)


def verify(frame: Any, *, threads: int | None = None) -> None:
    """Decode every block, check every hash, and keep nothing.

    Raises
    ------
    TruncatedError, CorruptionError, UnsupportedError
        What is wrong with the frame.

    """
    raw = buffers.encoded(frame)
    if is_quantized(raw):
        _quantized().verify(raw, threads=threads)
        return
    for _ in decoded_pieces(raw, threads=threads):
        pass


def decoded_pieces(raw: Bytes, *, threads: int | None = None) -> Iterator[Bytes]:
    """The decoded bytes of a frame, some MiB at a time, in memory that is used again."""
    parsed = frames.parse(raw)
    step = max(1, VERIFY_BYTES // parsed.block_bytes)
    scratch = np.empty(min(step * parsed.block_bytes, parsed.decoded_bytes), np.uint8)
    for first in range(0, parsed.n_blocks, step):
        last = min(first + step, parsed.n_blocks)
        stop = min(last * parsed.block_bytes, parsed.decoded_bytes)
        payload = raw[parsed.offsets[first] : parsed.offsets[last]]
        out = scratch[: stop - first * parsed.block_bytes]
        decode_blocks(parsed, payload, first, last, out, threads=threads)
        yield out


def max_encoded_size(
    shape: int | Sequence[int], dtype: Any, config: Config | QuantizeConfig | None = None
) -> int:
    """The most bytes that a frame of an array of this shape and data type can have.

    For a `QuantizeConfig` that is when every value is an exception: more than the array.
    """
    dims = (shape,) if isinstance(shape, int) else tuple(shape)
    found = from_numpy(np.dtype(dtype))
    if config is not None and not isinstance(config, Config):
        return _quantized().max_encoded_bytes(found, dims, config)  # type: ignore[no-any-return]
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
    numbers: Sequence[int | None] = (None,),
) -> list[Salvaged]:
    """Decode frames into their targets, all blocks of all frames in one set of jobs."""
    work, sizes, rows = [], [], []
    for number, (raw, target) in zip(numbers, pairs, strict=True):
        with noting(number):
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
    for number, (frame, array, filled, finish, status) in zip(numbers, rows, strict=True):
        bad = bad_blocks(frame, status) if np.count_nonzero(status) else []
        if bad and not salvage:
            filled[:] = 0  # what a damaged payload decodes to is nobody's data
            with noting(number):
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
    if not np.count_nonzero(status):  # for a few blocks much faster than any()
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
